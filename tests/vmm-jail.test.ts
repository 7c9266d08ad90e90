/** Jails of pods' VMMs on the real kernel: what is brought in, what a hostile VMM may do to its root, and that nothing is left. The jailer itself is in no registry, so its run is checked by hand. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import { chooseJailer } from "../packages/tinderbox/src/guest/choose-jailer.ts";
import type { SandboxRecord } from "../packages/tinderbox/src/sandbox/contract.ts";
import { JailUsers } from "../packages/tinderbox/src/sandbox/microvm/jail-users.ts";
import { createMicrovmSandboxFactory } from "../packages/tinderbox/src/sandbox/microvm/microvm-sandbox.ts";
import {
  foundVmmPlace,
  hostVsock,
  type NewVmmPlace,
  newVmmPlace,
} from "../packages/tinderbox/src/sandbox/microvm/vmm-place.ts";

const log = createLogger({ level: "error", format: "text" });

describe("a pod's VMM in its jail", () => {
  const work = mkdtempSync(join(tmpdir(), "vj-"));
  /** Another file system than the sandbox's: what comes from it is a mount. */
  const elsewhere = join(work, "images");
  const netns = join(work, "netns");
  const users = new JailUsers();
  const program = join(work, "firecracker");
  const factory = createMicrovmSandboxFactory({
    handler: "firecracker",
    stateDir: work,
    vmm: program,
    jailer: program,
    jailUsers: users,
    kernel: "",
    initrd: "",
    log,
  });
  let record: SandboxRecord;
  let place: NewVmmPlace;
  let root: string;

  /** As its jail's launch does before the jailer runs. */
  async function makePlace(id: string): Promise<[SandboxRecord, NewVmmPlace]> {
    const spec = {
      id,
      hostname: "h",
      cgroupPath: `tinderbox/${id}`,
      network: { kind: "pod", netnsPath: netns, interfaces: [] },
      resolvConf: "",
      sysctls: {},
      sharedPidNamespace: false,
      hostPid: false,
      hostIpc: false,
      vcpus: 1,
      memoryMib: 128,
      runtime: "crun",
    } as const;
    const made = factory.plan(spec);
    mkdirSync(made.directory, { recursive: true, mode: 0o700 });
    const where = await newVmmPlace(made, program, ["/cgroup"], { jailer: program, users });
    return [made, where];
  }
  const spawnerOf = (where: NewVmmPlace) => {
    assert.ok("spawner" in where.launch);
    return where.launch.spawner;
  };

  before(async () => {
    mkdirSync(elsewhere);
    execFileSync("mount", ["-t", "tmpfs", "tmpfs", elsewhere]);
    // Neither is entered or run here.
    writeFileSync(netns, "");
    writeFileSync(program, "", { mode: 0o755 });
    [record, place] = await makePlace("0123456789abcdef0123");
    root = spawnerOf(place).rootDirectory ?? "";
    await spawnerOf(place).prepare?.();
  });

  after(() => {
    execFileSync("umount", [elsewhere]);
    rmSync(work, { recursive: true, force: true });
  });

  const owner = (path: string): number => statSync(path).uid;

  test("runs as a user of its own, in the pod's cgroup and namespace, with the jailer between", async () => {
    const { file, args } = spawnerOf(place).command(["--level", "Warning"]);
    const text = [file, ...args].join(" ");
    assert.match(text, /tinderbox-native launch --cgroup \/cgroup -- \S+firecracker --id 0123456789ab /);
    assert.ok(text.includes(`--netns ${netns}`));
    const [, uid] = /--uid (\d+)/.exec(text) ?? [];
    const [other, second] = await makePlace("another");
    const [, otherUid] = /--uid (\d+)/.exec(spawnerOf(second).command([]).args.join(" ")) ?? [];
    assert.notEqual(uid, otherUid);
    assert.ok(Number(uid) > 65_536 && Number(otherUid) > 65_536);
    await factory.clean(other);
  });

  test("its drives are brought in: images read-only, the scratch drive given to it", async () => {
    const { toVmmPath } = spawnerOf(place);
    const image = join(elsewhere, "image");
    const scratch = join(record.directory, "scratch.ext4");
    writeFileSync(image, "image", { mode: 0o644 });
    writeFileSync(scratch, "scratch", { mode: 0o600 });
    const inside = await toVmmPath(image, "read");
    assert.throws(() => writeFileSync(join(root, inside), "x"), { code: "EROFS" });
    await toVmmPath(scratch, "write");
    assert.notEqual(owner(scratch), 0);
    assert.equal(owner(image), 0);
  });

  test("a block device has a node in it, given to it, for as long as it is a drive", async () => {
    const node = join(work, "device");
    execFileSync("mknod", [node, "b", "7", "0"]);
    const device = {
      name: "devices[0]",
      number: "7:4242",
      sizeBytes: 512,
      mode: 0o600,
      uid: 0,
      gid: 0,
      path: node,
      checkUnused: async () => {},
      close: async () => {},
    };
    const path = await place.admitDevice(9, device, true);
    assert.equal(spawnerOf(place).toHostPath(await spawnerOf(place).toVmmPath(path, "write")), path);
    const made = statSync(path);
    // The device's own number, whatever its path leads to by now.
    assert.deepEqual(
      [made.isBlockDevice(), made.rdev, made.mode & 0o777],
      [true, (16 << 20) | (7 << 8) | 0x92, 0o600],
    );
    assert.equal(made.uid, owner(join(record.directory, "scratch.ext4")));
    const again = await place.admitDevice(9, { ...device, number: "7:1" }, false);
    assert.deepEqual(
      [again, statSync(again).rdev, statSync(again).mode & 0o777],
      [path, (7 << 8) | 1, 0o400],
    );
    await place.removeDevice(9);
    assert.equal(existsSync(path), false);
    await place.removeDevice(9);
  });

  test("what the guest calls is reached by the jail's user, whatever the VMM put in the way", async () => {
    const uid = owner(join(record.directory, "scratch.ext4"));
    const victim = join(work, "victim");
    writeFileSync(victim, "victim", { mode: 0o600 });
    chownSync(root, uid, uid);
    symlinkSync(victim, `${place.vsockPath}_1025`);
    const server = createServer((socket) => socket.end("served"));
    await new Promise<void>((resolve) => server.listen(`${hostVsock(record)}_1025`, resolve));
    try {
      await place.admit(1025);
      const script = `require("net").connect("v_1025").on("data", (data) => process.stdout.write(data))`;
      const asJailed = [
        "--reuid",
        `${uid}`,
        "--regid",
        `${uid}`,
        "--clear-groups",
        process.execPath,
        "-e",
        script,
      ];
      // Not spawnSync: the server is in this process.
      const child = spawn("setpriv", asJailed, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
      let said = "";
      for await (const chunk of child.stdout) said += chunk;
      assert.equal(said, "served");
    } finally {
      server.close();
    }
    assert.equal(statSync(victim).mode & 0o777, 0o600);
    assert.equal(readFileSync(victim, "utf8"), "victim");
  });

  test("is found again by what is on the disk, and removed by it with mounts and files", async () => {
    const later = new JailUsers();
    const found = await foundVmmPlace(record, later);
    assert.deepEqual(
      [found.id, found.apiSocket, found.vsockPath],
      [place.id, place.apiSocket, place.vsockPath],
    );
    // The next sandbox gets another user than the one that was found.
    assert.notEqual(later.take("next"), owner(join(record.directory, "scratch.ext4")));
    assert.match(readFileSync("/proc/self/mountinfo", "utf8"), new RegExp(root));
    await factory.clean(record);
    assert.ok(!existsSync(record.directory));
    assert.doesNotMatch(readFileSync("/proc/self/mountinfo", "utf8"), new RegExp(root));
    assert.equal(readFileSync(join(elsewhere, "image"), "utf8"), "image");
    await factory.clean(record);
  });
});

describe("which jailer", () => {
  const work = mkdtempSync(join(tmpdir(), "vj-"));
  const program = (name: string, version: string): string => {
    const path = join(work, name);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, `#!/bin/sh\necho '${name} v${version}'\n`, { mode: 0o755 });
    return path;
  };
  const signal = new AbortController().signal;
  after(() => rmSync(work, { recursive: true, force: true }));

  test("the one beside the VMM, of its release", async () => {
    const vmm = program("a/firecracker", "1.16.1");
    assert.equal(await chooseJailer("auto", vmm, log, signal), undefined);
    const jailer = program("a/jailer", "1.16.1");
    assert.equal(await chooseJailer("auto", vmm, log, signal), jailer);
    assert.equal(await chooseJailer("none", vmm, log, signal), undefined);
    program("a/jailer", "1.15.0");
    assert.equal(await chooseJailer("auto", vmm, log, signal), undefined);
    await assert.rejects(chooseJailer(jailer, vmm, log, signal), /is of release 1\.15\.0, .* of 1\.16\.1/);
  });

  test("none for firecracker-qemu, which confines its QEMU itself", async () => {
    assert.equal(await chooseJailer("auto", "bin/firecracker-qemu", log, signal), undefined);
  });
});
