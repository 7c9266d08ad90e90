/** Block devices of the host (raw block volumes) in a microVM, by crictl: loop devices over files of the test. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { openBlockDevice } from "../packages/tinderbox/src/sandbox/microvm/block-device.ts";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { crictl, crictlPath } from "./support/crictl.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

type Device = { readonly host: string; readonly at: string; readonly permissions?: string };
type Options = {
  readonly privileged?: boolean;
  readonly capability?: string;
  /** 0: the pod's PID namespace, 1: its own */
  readonly pid?: 0 | 1;
};

describe("block volumes of a microVM", () => {
  const work = mkdtempSync("/tmp/tb-");
  const file = (name: string): string => join(work, "host", name);
  const loops = new Set<string>();
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let image = "";
  let pod = { id: "", config: "" };
  let watcher = "";

  const start = (): Promise<TestDaemon> =>
    startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: `[cni]\nconf_dir = ${JSON.stringify(cni.confDir)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
    });
  const host = (program: string, ...args: string[]): string =>
    execFileSync(program, args, { encoding: "utf8" }).trim();
  const attach = (name: string, mib = 8): string => {
    if (!existsSync(file(name))) writeFileSync(file(name), "");
    truncateSync(file(name), mib << 20);
    const loop = host("losetup", "--find", "--show", file(name));
    loops.add(loop);
    return loop;
  };
  const isAttached = (loop: string): boolean => existsSync(`/sys/block/${basename(loop)}/loop/backing_file`);
  /** Detaches a device that nobody may hold any more: a held one goes away only when it is let go. */
  const detach = (loop: string): void => {
    host("losetup", "--detach", loop);
    assert.equal(isAttached(loop), false, `${loop} is held`);
    loops.delete(loop);
  };
  const readAt = (path: string, sector: number, bytes: number): string => {
    const [fd, buffer] = [openSync(path, "r"), Buffer.alloc(bytes)];
    readSync(fd, buffer, 0, bytes, sector * 512);
    closeSync(fd);
    return buffer.toString("latin1");
  };

  const ok = (...args: string[]): string => {
    const result = crictl(daemon.socket, ...args);
    assert.equal(result.code, 0, `crictl ${args.join(" ")}: ${result.stderr}\n${daemon.said().slice(-3000)}`);
    return result.stdout.trimEnd();
  };
  const sh = (container: string, script: string): string =>
    ok("exec", "--sync", container, "sh", "-c", script);
  const fails = (container: string, script: string): string => {
    const { code, stderr, stdout } = crictl(daemon.socket, "exec", "--sync", container, "sh", "-c", script);
    assert.notEqual(code, 0, stdout);
    return stderr;
  };
  const writeContainer = (name: string, devices: readonly Device[], options: Options = {}): string => {
    const path = join(work, `${name}.json`);
    const { privileged = false, capability, pid = 1 } = options;
    const config = {
      metadata: { name, attempt: 1 },
      image: { image },
      command: ["sleep", "100000"],
      linux: {
        security_context: {
          privileged,
          ...(capability === undefined ? {} : { capabilities: { add_capabilities: [capability] } }),
          namespace_options: { pid },
        },
      },
      devices: devices.map(({ host: host_path, at: container_path, permissions = "mrw" }) => ({
        host_path,
        container_path,
        permissions,
      })),
    };
    writeFileSync(path, JSON.stringify(config));
    return path;
  };
  const create = (name: string, devices: readonly Device[], options: Options = {}): string => {
    const id = ok("create", pod.id, writeContainer(name, devices, options), pod.config);
    ok("start", id);
    return id;
  };
  const refuses = (name: string, device: Device, why: RegExp): void => {
    const { code, stderr } = crictl(
      daemon.socket,
      "create",
      pod.id,
      writeContainer(name, [device]),
      pod.config,
    );
    assert.notEqual(code, 0, `${name} is accepted`);
    assert.match(stderr.replaceAll('\\"', '"'), why);
  };
  const remove = (id: string): string => ok("rm", "--force", id);
  const runPod = (name: string): { id: string; config: string } => {
    const config = join(work, `${name}-pod.json`);
    const metadata = { name, namespace: "test", uid: name, attempt: 1 };
    const linux = { security_context: { privileged: true, namespace_options: { pid: 0 } } };
    writeFileSync(config, JSON.stringify({ metadata, hostname: name, linux }));
    return { id: ok("runp", "--runtime", "firecracker", config), config };
  };
  /** What the guest's kernel has of drives beside the scratch drive and the watcher's image: sizes in sectors. */
  const placeholders = (): string =>
    sh(watcher, "cat /sys/block/vd[c-m]/size | sort -n | uniq -c | tr -s ' '");

  before(async () => {
    snapshot = snapshotHost([]);
    mkdirSync(join(work, "host"));
    registry = await startRegistry({ dir: join(work, "registry") });
    image = `${registry.host}/test/busybox:latest`;
    await pushBusyboxImage(registry.url, "test/busybox", "latest");
    cni = writeBridgeConf(join(work, "cni"));
    daemon = await start();
    ok("pull", image);
    pod = runPod("blocks");
    watcher = create("watcher", [], { privileged: true });
  });
  let isDown = false;
  const tearDown = async (): Promise<void> => {
    await daemon.stop();
    await registry.stop();
    cni.remove();
    for (const loop of loops) if (isAttached(loop)) host("losetup", "--detach", loop);
    rmSync(work, { recursive: true, force: true });
  };
  after(async () => {
    if (!isDown) await tearDown();
  });

  test("what the container writes is on the host's device, and the other way; afterwards nobody holds it", () => {
    const loop = attach("data.img");
    execFileSync("sh", ["-c", `echo from-host | dd of=${loop} seek=5 conv=fsync 2>/dev/null`]);
    // The kubelet names a device by a link of its own, and the node's owner counts.
    host("mknod", "--mode=0640", file("node"), "b", "7", loop.replace("/dev/loop", ""));
    host("chown", "0:6", file("node"));
    symlinkSync(file("node"), file("pvc"));
    assert.equal(placeholders(), " 11 1");
    const id = create("data", [{ host: file("pvc"), at: "/dev/xvda" }]);
    assert.equal(placeholders(), " 10 1\n 1 16384");
    assert.equal(sh(id, "dd if=/dev/xvda skip=5 count=1 2>/dev/null | head -n 1"), "from-host");
    assert.equal(sh(id, "blockdev --getsize64 /dev/xvda; stat -c '%a %u %g' /dev/xvda"), "8388608\n640 0 6");
    sh(id, "echo from-guest | dd of=/dev/xvda seek=9 conv=fsync 2>/dev/null");
    assert.equal(readAt(loop, 9, 10), "from-guest");
    // The file below the loop device has it only when the flush has gone all the way.
    assert.equal(readAt(file("data.img"), 9, 10), "from-guest");
    remove(id);
    assert.equal(placeholders(), " 11 1");
    detach(loop);
  });

  test("a file system that the container has mounted is whole when the container is gone", () => {
    const loop = attach("ext4.img", 16);
    host("mkfs.ext4", "-q", loop);
    const id = create("ext4", [{ host: loop, at: "/dev/block/mine" }], { capability: "SYS_ADMIN" });
    sh(id, "mkdir /mnt && mount -t ext4 /dev/block/mine /mnt && echo kept >/mnt/file");
    remove(id);
    assert.match(host("fsck.ext4", "-n", "-f", loop), /Pass 5/);
    mkdirSync(file("mnt"));
    host("mount", "-o", "ro", loop, file("mnt"));
    assert.equal(readFileSync(file("mnt/file"), "utf8"), "kept\n");
    host("umount", file("mnt"));
    detach(loop);
  });

  test("two containers of a pod share a device, which stays until the last is gone", () => {
    const loop = attach("shared.img");
    const [one, two] = ["one", "two"].map((name) => create(name, [{ host: loop, at: `/dev/${name}` }]));
    assert.ok(one !== undefined && two !== undefined);
    sh(one, "echo seen | dd of=/dev/one 2>/dev/null");
    assert.equal(sh(two, "head -n 1 /dev/two"), "seen");
    remove(one);
    sh(two, "echo still | dd of=/dev/two conv=fsync 2>/dev/null");
    assert.equal(readAt(loop, 0, 5), "still");
    remove(two);
    detach(loop);
  });

  test("without w nobody in the microVM writes, root of a privileged container neither", () => {
    const loop = attach("readonly.img");
    const device = { host: loop, at: "/dev/ro", permissions: "r" };
    const plain = create("plain", [device]);
    assert.match(fails(plain, "echo no | dd of=/dev/ro"), /not permitted/);
    const privileged = create("privileged", [device], { privileged: true });
    assert.equal(sh(privileged, "blockdev --getro /dev/ro"), "1");
    // Not the node's leave, nor the kernel's good will: the VMM opened it read-only.
    fails(privileged, "blockdev --setrw /dev/ro; echo no | dd of=/dev/ro conv=fsync");
    assert.equal(readAt(loop, 0, 3), "\0\0\0");
    remove(plain);
    remove(privileged);
    detach(loop);
  });

  test("a container has no leave for devices that are not its own", () => {
    const [mine, other] = [attach("mine.img"), attach("other.img")];
    const owner = create("owner", [{ host: other, at: "/dev/x" }]);
    const id = create("mine", [{ host: mine, at: "/dev/mine", permissions: "rw" }]);
    const numbers = sh(owner, "stat -c '%t %T' /dev/x")
      .split(" ")
      .map((part) => Number.parseInt(part, 16));
    assert.match(fails(id, `mknod /tmp/x b ${numbers.join(" ")} && cat /tmp/x`), /not permitted/);
    sh(id, "dd if=/dev/mine count=1 of=/dev/null 2>/dev/null");
    remove(owner);
    remove(id);
    detach(mine);
    detach(other);
  });

  test("what is no block device, is empty, gone, or the host's own (CVE-2026-24054) is refused by name", () => {
    const refused = (name: string, path: string, why: RegExp): void =>
      refuses(name, { host: path, at: "/dev/x" }, why);
    refused("character", "/dev/null", /devices\[0\]\.host_path "\/dev\/null": a character device/);
    refused("directory", work, /devices\[0\]\.host_path .*: not a block device/);
    writeFileSync(file("plain"), "");
    refused("file", file("plain"), /host_path .*: not a block device/);
    symlinkSync("/dev/no-such-device", file("dangling"));
    refused("dangling", file("dangling"), /host_path .*dangling": ENOENT/);
    const loop = attach("mounted.img");
    host("mkfs.ext4", "-q", loop);
    mkdirSync(file("mounted"));
    host("mount", loop, file("mounted"));
    refused("mounted", loop, /host_path .*: the host uses block device .* itself/);
    // Reading it destroys nothing.
    const id = create("reader", [{ host: loop, at: "/dev/x", permissions: "r" }]);
    assert.equal(sh(id, "dd if=/dev/x bs=1 skip=1080 count=2 2>/dev/null | od -An -tx1").trim(), "53 ef");
    remove(id);
    host("umount", file("mounted"));
    detach(loop);
    refused("empty", loop, /the device is empty|no driver has a block device|ENOENT/);
    assert.equal(placeholders(), " 11 1");
  });

  test("the device that was looked at is the one that a VMM gets, whatever becomes of its path", async () => {
    const [mine, other] = [attach("looked-at.img"), attach("swapped.img")];
    const path = file("swapped");
    symlinkSync(mine, path);
    const device = await openBlockDevice("devices[0].host_path", path);
    rmSync(path);
    symlinkSync(other, path);
    assert.equal(statSync(device.path).rdev, statSync(mine).rdev);
    assert.equal(device.sizeBytes, 8 << 20);
    await device.close();
    detach(mine);
    detach(other);
  });

  test("one more than there are drives is refused, and fits when another has gone", () => {
    const many = Array.from({ length: 5 }, (_, n) => attach(`many${n}.img`));
    const devices = many.map((loop, n) => ({ host: loop, at: `/dev/many${n}` }));
    const four = create("four", devices.slice(0, 4));
    const fifth = { host: many[4] ?? "", at: "/dev/fifth" };
    refuses("fifth", fifth, /devices\[0\]\.host_path .*: all 4 writable drives of the microVM are in use/);
    remove(four);
    // None of five is had by a container that was refused.
    refuses("five", { ...fifth, host: "/dev/null" }, /character device/);
    const id = create("fifth-again", [fifth]);
    remove(id);
    for (const loop of many) detach(loop);
  });

  test("a device that fails under a container gives it errors, and is let go of", () => {
    const loop = attach("fails.img");
    const id = create("fails", [{ host: loop, at: "/dev/x" }]);
    sh(id, "echo waits >/dev/x");
    truncateSync(file("fails.img"), 0);
    assert.match(fails(id, "dd if=/dev/x bs=4096 skip=1000 count=1 of=/dev/null"), /Input\/output error/);
    remove(id);
    assert.equal(placeholders(), " 11 1");
    detach(loop);
  });

  test("the daemon is killed while a container uses a device: its successor goes on, and lets go of it", async () => {
    const loop = attach("survives.img");
    const id = create("survives", [{ host: loop, at: "/dev/x" }]);
    await daemon.kill9();
    daemon = await start();
    sh(id, "echo after | dd of=/dev/x conv=fsync 2>/dev/null");
    assert.equal(readAt(loop, 0, 5), "after");
    remove(id);
    detach(loop);
  });

  test("the daemon is killed while containers with a device are made and removed: none is held", async () => {
    const loop = attach("killed.img");
    const journal = (): string => {
      const directory = join(work, "root/microvm/sandboxes");
      return readFileSync(join(directory, host("ls", directory), "drives.json"), "utf8");
    };
    const killAndLook = async (doing: ChildProcess): Promise<void> => {
      await daemon.kill9();
      doing.kill("SIGKILL");
      daemon = await start();
      for (const id of ok("ps", "-aq", "--name", "killed").split("\n")) if (id !== "") remove(id);
      assert.equal(placeholders(), " 11 1");
    };
    const devices = [{ host: loop, at: "/dev/x" }];
    const begin = (...args: string[]): ChildProcess =>
      spawn(crictlPath, ["--runtime-endpoint", `unix://${daemon.socket}`, ...args], { stdio: "ignore" });
    const creating = begin("create", pod.id, writeContainer("killed", devices), pod.config);
    while (!journal().includes("device ")) await new Promise((resolve) => setImmediate(resolve));
    await killAndLook(creating);
    // At whatever point of a removal this is.
    for (const ms of [30, 60, 120]) {
      const id = create("killed", devices);
      const removing = begin("rm", "--force", id);
      await new Promise((resolve) => setTimeout(resolve, ms));
      await killAndLook(removing);
    }
    detach(loop);
  });

  test("a pod that is stopped has written out what its containers had not", () => {
    const [raw, ext4] = [attach("raw.img", 32), attach("stopped.img", 16)];
    host("mkfs.ext4", "-q", ext4);
    const devices = [
      { host: raw, at: "/dev/raw" },
      { host: ext4, at: "/dev/ext4" },
    ];
    // In the pod's PID namespace a process may outlive the first one of its container.
    const id = create("stopped", devices, { capability: "SYS_ADMIN", pid: 0 });
    sh(id, "mkdir /mnt && mount -t ext4 /dev/ext4 /mnt && echo kept >/mnt/file");
    const cached = 20 << 20;
    const holds = `exec 3<>/dev/raw; yes cached | head -c ${cached} >&3; touch /tmp/done; exec sleep 1000`;
    const waits = "until [ -e /tmp/done ]; do kill -0 $! || { cat /tmp/said; exit 1; }; sleep 0.1; done";
    sh(id, `(${holds}) >/tmp/said 2>&1 & ${waits}`);
    ok("stopp", pod.id);
    assert.doesNotMatch(daemon.said(), /does not shut down/);
    const all = readFileSync(raw).subarray(0, cached);
    assert.ok(all.equals(Buffer.alloc(cached, "cached\n")), `lost from byte ${all.indexOf(0)} on`);
    assert.match(host("fsck.ext4", "-n", "-f", ext4), /Pass 5/);
    assert.equal(host("debugfs", "-R", "cat /file", ext4), "kept");
    ok("rmp", pod.id);
    detach(raw);
    detach(ext4);
  });

  test("nothing is left", async () => {
    await tearDown();
    isDown = true;
    assertNothingAdded(snapshot);
  });
});
