/** Both kinds of sandbox for real: start, a busybox container with log and exec, delete, destroy, and nothing left. Needs root. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import { binDirectory, guestDirectory, nativeProgram } from "../packages/tinderbox/src/base/paths.ts";
import type { Digest, Image } from "../packages/tinderbox/src/image/contract.ts";
import type { SandboxFactory, SandboxSpec } from "../packages/tinderbox/src/sandbox/contract.ts";
import { createHostSandboxFactory } from "../packages/tinderbox/src/sandbox/host/host-sandbox.ts";
import { createMicrovmSandboxFactory } from "../packages/tinderbox/src/sandbox/microvm/microvm-sandbox.ts";

const log = createLogger({ level: "debug", format: "text" });

function busyboxImage(directory: string): Image {
  const root = join(directory, "root");
  for (const name of ["bin", "dev", "proc", "sys", "tmp", "etc"])
    mkdirSync(join(root, name), { recursive: true });
  copyFileSync("/bin/busybox", join(root, "bin/busybox"));
  symlinkSync("busybox", join(root, "bin/sh"));
  const blockPath = join(directory, "image.squashfs");
  const tar = execFileSync("tar", ["-C", root, "-cf", "-", "."], { maxBuffer: 64 << 20 });
  execFileSync("sqfstar", ["-quiet", blockPath], { input: tar, stdio: ["pipe", "ignore", "inherit"] });
  const config = {
    user: "",
    env: [],
    entrypoint: [],
    cmd: [],
    workingDir: "/",
    stopSignal: "",
    labels: {},
    volumes: [],
  };
  return {
    id: `sha256:${"ab".repeat(32)}` as Digest,
    repoTags: [],
    repoDigests: [],
    isPinned: false,
    sizeBytes: statSync(blockPath).size,
    config,
    blockPath,
    fsType: "squashfs",
    passwd: "",
    group: "",
  };
}

const processOf = (command: string) => ({
  terminal: false,
  user: { uid: 0, gid: 0 },
  args: ["/bin/sh", "-c", command],
  env: ["PATH=/bin"],
  cwd: "/",
});

async function lifeOfAPod(factory: SandboxFactory, directory: string): Promise<void> {
  const id = `smoke${process.pid}${factory.place}`;
  const spec: SandboxSpec = {
    id,
    hostname: "smoke",
    cgroupPath: `tinderbox-test/${id}`,
    network:
      factory.place === "host"
        ? { kind: "host" }
        : { kind: "pod", netnsPath: "/proc/self/ns/net", interfaces: [] },
    resolvConf: "",
    sysctls: {},
    sharedPidNamespace: factory.place === "microvm",
    hostPid: false,
    hostIpc: false,
    vcpus: 1,
    memoryMib: 512,
    runtime: "crun",
  };
  const record = factory.plan(spec);
  try {
    const signal = AbortSignal.timeout(120_000);
    const sandbox = await factory.start(record, signal);
    const logPath = join(directory, `${factory.place}.log`);
    await sandbox.createContainer(
      {
        id: "c1",
        image: busyboxImage(directory),
        ociSpec: {
          ociVersion: "1.0.2",
          process: processOf("echo hello; exec /bin/busybox sleep 600"),
          root: { path: "rootfs", readonly: false },
          mounts: [{ destination: "/proc", type: "proc", source: "proc" }],
          linux: { cgroupsPath: `/${spec.cgroupPath}/c1`, namespaces: [{ type: "pid" }, { type: "mount" }] },
        },
        volumes: [],
        blockDevices: [],
        readonlyRootfs: false,
        terminal: false,
        stdin: false,
        stdinOnce: false,
        logPath,
        mounts: [],
        files: [],
      },
      signal,
    );
    const exited = Promise.withResolvers<number>();
    sandbox.onEvent((event) => {
      if (event.kind === "container" && event.state.finishedAtNs > 0n) exited.resolve(event.state.exitCode);
    });
    await sandbox.startContainer("c1", signal);
    const streams = await sandbox.exec("c1", {
      processJson: processOf("echo out; echo err >&2; exit 7"),
      stdin: false,
      stdout: true,
      stderr: true,
      terminal: false,
      timeoutMs: 0,
    });
    const got = { stdout: "", stderr: "" };
    for await (const { channel, data } of streams.output()) got[channel] += Buffer.from(data).toString();
    assert.deepEqual(got, { stdout: "out\n", stderr: "err\n" });
    assert.equal((await streams.exit).code, 7);
    await sandbox.signalContainer("c1", 9, true);
    assert.equal(await exited.promise, 137);
    assert.match(readFileSync(logPath, "utf8"), /^\S+ stdout F hello\n$/);
    await sandbox.deleteContainer("c1");
    await sandbox.deleteContainer("c1");
    await sandbox.destroy();
  } finally {
    await factory.clean(record);
  }
  assert.equal(existsSync(record.directory), false);
  assert.doesNotMatch(readFileSync("/proc/self/mountinfo", "utf8"), new RegExp(directory));
}

test("host sandbox: the life of a pod", {
  skip: !existsSync(nativeProgram) && "bin/tinderbox-native is not built",
}, async (t) => {
  const directory = mkdtempSync("/tmp/tb-");
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  await lifeOfAPod(
    createHostSandboxFactory({
      handler: "crun",
      stateDir: join(directory, "s"),
      writableDir: "/dev/shm/tb-smoke",
      log,
    }),
    directory,
  );
});

const kernel = join(guestDirectory, "vmlinux");
// Not in the repository yet: LIMITATIONS.md.
const adapter = join(binDirectory, "../packages/firecracker-qemu/src/main.ts");
test("microVM sandbox: the life of a pod", {
  skip:
    !(existsSync(kernel) && existsSync(nativeProgram) && existsSync(adapter)) &&
    "no guest, agent or firecracker-qemu",
}, async (t) => {
  const directory = mkdtempSync("/tmp/tb-");
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const vmm = process.env["TINDERBOX_VMM"] ?? join(binDirectory, "firecracker-qemu");
  const initrd = join(guestDirectory, "initramfs.img");
  await lifeOfAPod(
    createMicrovmSandboxFactory({
      handler: "firecracker",
      stateDir: join(directory, "s"),
      vmm,
      kernel,
      initrd,
      scratchMib: 512,
      log,
    }),
    directory,
  );
});
