/** The engine over real host sandboxes, CNI and crun: a pod's life, and its recovery by a second engine. Needs root. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import { nativeProgram } from "../packages/tinderbox/src/base/paths.ts";
import { CdiRegistry } from "../packages/tinderbox/src/cdi/cdi-registry.ts";
import type { ContainerConfig, Engine, PodConfig } from "../packages/tinderbox/src/engine/contract.ts";
import { openEngine } from "../packages/tinderbox/src/engine/engine.ts";
import { Store } from "../packages/tinderbox/src/engine/store.ts";
import type { Digest, Image, ImageService } from "../packages/tinderbox/src/image/contract.ts";
import { createNetworkService } from "../packages/tinderbox/src/network/network-service.ts";
import { createHostSandboxFactory } from "../packages/tinderbox/src/sandbox/host/host-sandbox.ts";

const skip =
  process.getuid?.() !== 0 || !existsSync(nativeProgram) || !existsSync("/usr/lib/cni/bridge")
    ? "needs root, bin/tinderbox-native and CNI plugins"
    : false;
const directory = mkdtempSync(join(tmpdir(), "tb-engine-"));
const bridge = `tbe${process.pid}`;
const subnet = `10.${150 + (process.pid % 50)}.${process.pid % 250}`;
const logger = createLogger({ level: "warn", format: "text" });
const soon = (): AbortSignal => AbortSignal.timeout(60_000);

after(() => {
  execFileSync("ip", ["link", "del", bridge], { stdio: "ignore" });
  rmSync(directory, { recursive: true, force: true });
  rmSync(`/dev/shm/tb-engine-${process.pid}`, { recursive: true, force: true });
});

function makeImage(): Image {
  const root = join(directory, "rootfs");
  for (const name of ["bin", "dev", "proc", "sys", "tmp", "etc"])
    mkdirSync(join(root, name), { recursive: true });
  for (const name of ["hosts", "hostname", "resolv.conf"]) writeFileSync(join(root, "etc", name), "");
  copyFileSync("/bin/busybox", join(root, "bin/busybox"));
  symlinkSync("busybox", join(root, "bin/sh"));
  const blockPath = join(directory, "image.squashfs");
  execFileSync("mksquashfs", [root, blockPath, "-quiet", "-no-progress"], { stdio: "ignore" });
  return {
    id: `sha256:${"cd".repeat(32)}` as Digest,
    repoTags: ["test/busybox:latest"],
    repoDigests: [],
    isPinned: false,
    sizeBytes: statSync(blockPath).size,
    config: {
      user: "",
      env: ["FROM_IMAGE=yes"],
      entrypoint: ["/bin/sh", "-c"],
      cmd: [],
      workingDir: "",
      stopSignal: "",
      labels: {},
      volumes: [],
    },
    blockPath,
    fsType: "squashfs",
    passwd: "root:x:0:0::/root:/bin/sh\n",
    group: "",
  };
}

/** An image store with one image, that keeps count of who holds it: no registry is part of this test. */
function oneImage(image: Image, holders: Set<string>): ImageService {
  const refuse = async (): Promise<never> => Promise.reject(new Error("not part of this test"));
  return {
    pull: refuse,
    importLocal: refuse,
    get: (reference) => (reference === image.id || image.repoTags.includes(reference) ? image : undefined),
    checkPolicy: () => {},
    list: () => [image],
    remove: refuse,
    hold: (_, owner) => {
      holders.add(owner);
      return image;
    },
    release: async (_, owner) => void holders.delete(owner),
    reconcileHolders: async (owners) => {
      for (const owner of holders) if (!owners.has(owner)) holders.delete(owner);
    },
    usage: refuse,
    close: async () => {},
  };
}

const podConfig = (name: string): PodConfig => ({
  name,
  uid: "u",
  namespace: "default",
  attempt: 0,
  hostname: "box",
  logDirectory: join(directory, "logs", name),
  dns: { servers: ["192.0.2.1"], searches: ["example"], options: [] },
  portMappings: [],
  labels: {},
  annotations: {},
  cgroupParent: "",
  sysctls: {},
  resources: { cpuPeriod: 0, cpuQuota: 0, memoryLimitBytes: 0 },
  overhead: { cpuPeriod: 0, cpuQuota: 0, memoryLimitBytes: 0 },
  namespaces: { network: "pod", pid: "container", ipc: "pod" },
  privileged: false,
  readonlyRootfs: false,
});

const containerConfig = (name: string, script: string): ContainerConfig => ({
  name,
  attempt: 0,
  image: "test/busybox:latest",
  userImage: "test/busybox:latest",
  command: [],
  args: [script],
  workingDir: "",
  env: [{ key: "GREETING", value: "hello" }],
  mounts: [],
  devices: [],
  cdiDevices: [],
  labels: {},
  annotations: {},
  logPath: `${name}/0.log`,
  stdin: false,
  stdinOnce: false,
  tty: false,
  stopSignal: "",
  resources: {
    cpuPeriod: 0,
    cpuQuota: 0,
    cpuShares: 0,
    memoryLimitBytes: 0,
    oomScoreAdj: 0,
    cpusetCpus: "",
    cpusetMems: "",
    hugepageLimits: [],
    unified: {},
    memorySwapLimitBytes: 0,
  },
  security: {
    privileged: false,
    addCapabilities: [],
    dropCapabilities: [],
    addAmbientCapabilities: [],
    pid: { mode: "container", targetId: "" },
    ipc: "pod",
    runAsUser: undefined,
    runAsUsername: "",
    runAsGroup: undefined,
    supplementalGroups: [],
    supplementalGroupsPolicy: "merge",
    readonlyRootfs: true,
    noNewPrivs: true,
    seccomp: { kind: "default" },
    appArmor: { kind: "unset" },
    maskedPaths: ["/proc/kcore"],
    readonlyPaths: ["/proc/sys"],
  },
});

async function execOutput(engine: Engine, id: string, command: readonly string[]): Promise<string> {
  const streams = await engine.exec(id, {
    command,
    tty: false,
    stdin: false,
    stdout: true,
    stderr: true,
    timeoutMs: 20_000,
  });
  let text = "";
  for await (const { data } of streams.output()) text += Buffer.from(data).toString();
  return `${text}${(await streams.exit).code}`;
}

const stateDir = join(directory, "state");

/** One node: what any number of engines, one after the other, are opened over. */
function fixture(): { readonly open: () => Promise<Engine>; readonly holders: Set<string> } {
  const confDir = join(directory, "net.d");
  rmSync(join(directory, "rootfs"), { recursive: true, force: true });
  rmSync(join(directory, "image.squashfs"), { force: true });
  mkdirSync(confDir, { recursive: true });
  const bridgePlugin = {
    type: "bridge",
    bridge,
    isGateway: true,
    ipam: {
      type: "host-local",
      ranges: [[{ subnet: `${subnet}.0/24` }]],
      routes: [{ dst: "0.0.0.0/0" }],
      dataDir: join(directory, "leases"),
    },
  };
  writeFileSync(
    join(confDir, "10.conflist"),
    JSON.stringify({ cniVersion: "1.0.0", name: bridge, plugins: [bridgePlugin] }),
  );
  const image = makeImage();
  const holders = new Set<string>();
  const open = async (): Promise<Engine> =>
    openEngine({
      config: { root: join(directory, "engine"), state: stateDir, defaultHandler: "crun" },
      images: oneImage(image, holders),
      network: await createNetworkService({
        confDir,
        binDirs: ["/usr/lib/cni"],
        rootDir: join(directory, "cni"),
        stateDir,
        logger,
      }),
      cdi: new CdiRegistry([]),
      appArmor: { kind: "off" },
      factories: new Map([
        [
          "crun",
          createHostSandboxFactory({
            handler: "crun",
            stateDir,
            writableDir: join("/dev/shm", `tb-engine-${process.pid}`),
            log: logger,
          }),
        ],
      ]),
      logger,
    });
  return { open, holders };
}

test("engine: a pod lives, is found again by the next engine, and leaves nothing", { skip }, async () => {
  const { open, holders } = fixture();
  const first = await open();
  const [pod, twin] = await Promise.all([
    first.runPod(podConfig("web"), "", soon()),
    first.runPod(podConfig("web"), "", soon()),
  ]);
  assert.equal(pod.id, twin.id);
  assert.equal(pod.state, "ready");
  assert.ok(pod.ips[0]?.startsWith(`${subnet}.`));
  try {
    const short = await first.createContainer(
      pod.id,
      containerConfig(
        "short",
        "echo $GREETING $FROM_IMAGE $(hostname 2>/dev/null || /bin/busybox hostname); exit 7",
      ),
      soon(),
    );
    await first.startContainer(short.id, soon());
    const ended = await first.waitContainer(short.id.slice(0, 13), soon());
    assert.ok(ended.phase.kind === "exited");
    assert.equal(ended.phase.exitCode, 7);
    assert.equal(ended.phase.reason, "Error");
    assert.match(readFileSync(ended.logPath, "utf8"), /^\S+ stdout F hello yes box\n$/);
    await assert.rejects(first.startContainer(short.id, soon()), { code: "WRONG_STATE" });

    const long = await first.createContainer(
      pod.id,
      containerConfig("long", "trap 'exit 3' TERM; while :; do /bin/busybox sleep 0.1; done"),
      soon(),
    );
    await first.startContainer(long.id, soon());
    assert.equal(
      await execOutput(first, long.id, ["/bin/busybox", "cat", "/etc/resolv.conf", "/etc/hostname"]),
      "nameserver 192.0.2.1\nsearch example\nbox\n0",
    );
    assert.match(
      await execOutput(first, long.id, ["/bin/busybox", "touch", "/x"]),
      /Read-only file system\n1$/,
    );
    assert.match(
      await execOutput(first, long.id, ["/bin/busybox", "grep", "CapEff", "/proc/self/status"]),
      /00000000000005fb\n0$/,
    );
    await first.close();

    const second = await open();
    assert.equal(second.pod(pod.id).state, "ready");
    assert.equal(second.container(long.id).phase.kind, "running");
    assert.deepEqual(second.container(short.id).phase, ended.phase);
    assert.equal(await execOutput(second, long.id, ["/bin/busybox", "echo", "again"]), "again\n0");
    await second.stopContainer(long.id, 20_000);
    const stopped = second.container(long.id).phase;
    assert.ok(stopped.kind === "exited");
    assert.equal(stopped.exitCode, 3);
    await second.removeContainer(short.id);
    await second.removeContainer(short.id);
    await second.stopPod(pod.id);
    await second.stopPod(pod.id);
    assert.equal(second.pod(pod.id).state, "notready");
    await second.removePod(pod.id);
    await second.removePod(pod.id);
    assert.deepEqual(second.pods(), []);
    assert.deepEqual(second.containers(), []);
    await second.close();
  } finally {
    const last = await open();
    for (const one of last.pods()) await last.removePod(one.id);
    await last.close();
  }
  assert.deepEqual([...holders], []);
  assert.deepEqual(
    readdirSync("/run/netns").filter((name) => name.includes(pod.id)),
    [],
  );
  assert.deepEqual(readdirSync(join(directory, "cni")), []);
  assert.doesNotMatch(readFileSync("/proc/self/mountinfo", "utf8"), new RegExp(directory));
  assert.equal(existsSync(`/sys/fs/cgroup/pids/tinderbox/${pod.id}`), false);
});

test("engine: when the pod's agent is killed, its pod is not ready and nothing of it is left", {
  skip,
}, async () => {
  const { open, holders } = fixture();
  const engine = await open();
  const pod = await engine.runPod(podConfig("gone"), "", soon());
  const made = await engine.createContainer(
    pod.id,
    containerConfig("main", "exec /bin/busybox sleep 600"),
    soon(),
  );
  await engine.startContainer(made.id, soon());
  const stopped = Promise.withResolvers<void>();
  const unsubscribe = engine.subscribe(
    (event) => event.kind === "stopped" && event.containerId === pod.id && stopped.resolve(),
  );
  const [sandboxName] = readdirSync(join(stateDir, "sandboxes"));
  assert.ok(sandboxName);
  const identity = JSON.parse(readFileSync(join(stateDir, "sandboxes", sandboxName, "agent.json"), "utf8"));
  process.kill(identity.pid, "SIGKILL");
  await stopped.promise;
  unsubscribe();
  assert.equal(engine.pod(pod.id).state, "notready");
  const { phase } = await engine.waitContainer(made.id, soon());
  assert.ok(phase.kind === "exited");
  assert.equal(phase.exitCode, 255);
  await assert.rejects(engine.createContainer(pod.id, containerConfig("late", "true"), soon()), {
    code: "WRONG_STATE",
  });
  await engine.removePod(pod.id);
  await engine.close();
  assert.deepEqual([...holders], []);
  assert.deepEqual(readdirSync(join(stateDir, "sandboxes")), []);
  assert.deepEqual(readdirSync(join(directory, "cni")), []);
  assert.doesNotMatch(readFileSync("/proc/self/mountinfo", "utf8"), new RegExp(directory));
});

test("openEngine: a pod and a container whose making was cut short are removed, and another pod stays", {
  skip,
}, async () => {
  const { open, holders } = fixture();
  const engine = await open();
  const [cut, kept] = [
    await engine.runPod(podConfig("cut"), "", soon()),
    await engine.runPod(podConfig("kept"), "", soon()),
  ];
  const half = await engine.createContainer(kept.id, containerConfig("half", "true"), soon());
  await engine.close();
  // As the store stands when the daemon is killed just before it would have written "ready" and "made".
  const store = new Store(join(directory, "engine", "engine.db"));
  for (const stored of store.pods())
    if (stored.pod.id === cut.id) store.savePod({ ...stored, stage: "starting" });
  for (const stored of store.containers()) store.saveContainer({ ...stored, stage: "creating" });
  store.close();
  const next = await open();
  assert.deepEqual(
    next.pods().map((one) => [one.id, one.state]),
    [[kept.id, "ready"]],
  );
  assert.deepEqual(next.containers(), []);
  assert.deepEqual([...holders], []);
  assert.deepEqual(readdirSync(join(directory, "cni")), [`${kept.id}.json`]);
  assert.equal(existsSync(`/run/netns/tb-${cut.id}`), false);
  assert.equal(existsSync(`/sys/fs/cgroup/pids/tinderbox/${cut.id}`), false);
  const again = await next.createContainer(kept.id, containerConfig("half", "true"), soon());
  assert.notEqual(again.id, half.id);
  await next.removePod(kept.id);
  await next.close();
  assert.deepEqual(readdirSync(join(stateDir, "sandboxes")), []);
  assert.deepEqual(readdirSync(join(directory, "cni")), []);
});
