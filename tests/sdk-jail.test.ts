/** Jails of the SDK on the real kernel: links, mounts, owners, cgroups, processes. The jailer itself is in no registry, so its run is checked by hand. */
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import type { Jail } from "../packages/firecracker/src/jailer/jail.ts";
import { jailProcesses } from "../packages/firecracker/src/jailer/jail-processes.ts";
import type { JailRecord } from "../packages/firecracker/src/jailer/jail-record.ts";
import { FirecrackerJailerError } from "../packages/firecracker/src/jailer/jailer-error.ts";
import type { JailerOptions } from "../packages/firecracker/src/jailer/jailer-options.ts";
import { makeJail } from "../packages/firecracker/src/jailer/make-jail.ts";
import { mountedBelow } from "../packages/firecracker/src/jailer/mounted-below.ts";
import { awaitPidFile } from "../packages/firecracker/src/jailer/pid-file.ts";
import { planJail } from "../packages/firecracker/src/jailer/plan-jail.ts";
import { removeJail, removeJailAt } from "../packages/firecracker/src/jailer/remove-jail.ts";
import { vmmIdentity } from "../packages/firecracker/src/process-identity.ts";

const uid = 48_123;
const gid = 48_124;

describe("jails", () => {
  let work: string;
  /** Another file system than `work`'s */
  let elsewhere: string;
  let options: JailerOptions;
  let number = 0;

  before(() => {
    work = mkdtempSync(join(tmpdir(), "sdk-jail-"));
    elsewhere = join(work, "tmpfs");
    mkdirSync(elsewhere);
    mkdirSync(join(work, "jails"));
    execFileSync("mount", ["-t", "tmpfs", "tmpfs", elsewhere]);
    // Any program serves: the jailer is not run here.
    writeFileSync(join(work, "vmm"), "", { mode: 0o755 });
  });

  beforeEach(() => {
    number += 1;
    const program = { jailerBinary: join(work, "vmm"), execFile: join(work, "vmm") };
    options = { ...program, id: `jail-${number}`, uid, gid, chrootBaseDir: join(work, "jails") };
  });

  after(async () => {
    const left = { mounts: await mountedBelow(join(work, "jails")), files: readdirSync(join(work, "jails")) };
    execFileSync("umount", [elsewhere]);
    rmSync(work, { recursive: true, force: true });
    assert.deepEqual(left, { mounts: [], files: [] });
  });

  const file = (directory: string, name: string, mode: number, text = name): string => {
    const path = join(directory, `${number}-${name}`);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, text);
    chmodSync(path, mode);
    return path;
  };
  const inode = (path: string): string => {
    const { dev, ino } = statSync(path);
    return `${dev}:${ino}`;
  };
  const methodOf = (jail: Jail, jailPath: string): string | undefined =>
    jail.record.stagedFiles.find((staged) => staged.jailPath === jailPath)?.method;
  const refusedBy = (field: string | undefined) => (error: unknown) =>
    error instanceof FirecrackerJailerError && error.field === field;
  /** As the jail's user, in the jail's root directory; undefined when that is refused */
  const asJailed = (jail: Jail, command: string): string | undefined => {
    const args = ["--reuid", String(uid), "--regid", String(gid), "--clear-groups", "sh", "-c", command];
    const result = spawnSync("setpriv", args, { cwd: jail.record.root, encoding: "utf8" });
    return result.status === 0 ? result.stdout : undefined;
  };

  test("stage: a kernel everyone may read is a hard link, and stays its owner's", async () => {
    await using jail = await makeJail((await planJail(options)).record);
    const kernel = file(work, "vmlinux", 0o644);
    const path = await jail.stage(kernel, { access: "ro" });
    assert.equal(path, `/files/${number}-vmlinux`);
    assert.equal(methodOf(jail, path), "link");
    assert.equal(inode(jail.hostPath(path)), inode(kernel));
    assert.equal(statSync(kernel).uid, 0);
    assert.equal(asJailed(jail, `cat .${path}`), "vmlinux");
    assert.equal(asJailed(jail, `echo >.${path}`), undefined);
  });

  test("stage: across file systems it is a bind mount, read-only for what is only read", async () => {
    await using jail = await makeJail((await planJail(options)).record);
    const disk = file(elsewhere, "shared.img", 0o644);
    const own = file(elsewhere, "own.img", 0o600);
    const path = await jail.stage(disk, { access: "ro", as: "/drives/root" });
    const ownPath = await jail.stage(own, { access: "rw" });
    assert.deepEqual([methodOf(jail, path), methodOf(jail, ownPath)], ["bind", "bind"]);
    assert.equal(inode(jail.hostPath(path)), inode(disk));
    assert.throws(() => appendFileSync(jail.hostPath(path), "x"), { code: "EROFS" });
    assert.equal(asJailed(jail, `printf y >>.${ownPath} && cat .${ownPath}`), "own.imgy");
    assert.equal(readFileSync(own, "utf8"), "own.imgy");
    assert.equal((await mountedBelow(jail.record.root)).length, 2);
  });

  test("stage: a file the jail could change is bound read-only, though a link would do", async () => {
    await using jail = await makeJail((await planJail(options)).record);
    const path = await jail.stage(file(work, "open.img", 0o666), { access: "ro" });
    assert.equal(methodOf(jail, path), "bind");
    assert.equal(asJailed(jail, `echo >.${path}`), undefined);
  });

  test("stage: a drive that is written is given to the jail's user, and back", async () => {
    const disk = file(work, "disk.img", 0o440);
    chownSync(disk, 7, 8);
    {
      await using jail = await makeJail((await planJail(options)).record);
      const path = await jail.stage(disk, { access: "rw" });
      assert.equal(methodOf(jail, path), "link");
      const { uid: owner, gid: group, mode } = statSync(disk);
      assert.deepEqual([owner, group, mode & 0o777], [uid, gid, 0o640]);
      assert.equal(asJailed(jail, `echo written >.${path} && cat .${path}`), "written\n");
    }
    const { uid: owner, gid: group, mode } = statSync(disk);
    assert.deepEqual([owner, group, mode & 0o777], [7, 8, 0o440]);
    assert.equal(readFileSync(disk, "utf8"), "written\n");
  });

  test("stage: what the jail may not read is copied for it, holes and all", async () => {
    await using jail = await makeJail((await planJail(options)).record);
    const secret = file(work, "secret.img", 0o600);
    truncateSync(secret, 64 << 20);
    const path = await jail.stage(secret, { access: "ro" });
    assert.equal(methodOf(jail, path), "copy");
    const copied = statSync(jail.hostPath(path));
    assert.deepEqual([copied.uid, copied.gid, copied.mode & 0o777, copied.size], [uid, gid, 0o400, 64 << 20]);
    assert.ok(copied.blocks * 512 < 1 << 20, `${copied.blocks} blocks: the holes were filled`);
    assert.equal(asJailed(jail, `head -c 10 .${path}`), "secret.img");
    assert.equal(statSync(secret).uid, 0);
    const asked = await jail.stage(file(work, "all.img", 0o666), { access: "rw", method: "copy" });
    assert.equal(methodOf(jail, asked), "copy");
    assert.equal(statSync(jail.hostPath(asked)).mode & 0o777, 0o600);
  });

  test("stage: names never collide", async () => {
    await using jail = await makeJail((await planJail(options)).record);
    const one = file(join(work, "a"), "rootfs", 0o644, "one");
    const two = file(join(work, "b"), "rootfs", 0o644, "two");
    const first = await jail.stage(one, { access: "ro" });
    const [second, again] = await Promise.all([
      jail.stage(two, { access: "ro" }),
      jail.stage(one, { access: "ro" }),
    ]);
    assert.equal(again, first);
    assert.equal(readFileSync(jail.hostPath(first), "utf8"), "one");
    assert.equal(readFileSync(jail.hostPath(second), "utf8"), "two");
    await assert.rejects(jail.stage(two, { access: "ro", as: first }), refusedBy("as"));
    writeFileSync(join(jail.record.root, "unknown"), "kept");
    await assert.rejects(jail.stage(two, { access: "ro", as: "/unknown", method: "copy" }), refusedBy("as"));
    await assert.rejects(jail.stage(two, { access: "ro", as: "/unknown", method: "bind" }), refusedBy("as"));
    assert.equal(readFileSync(join(jail.record.root, "unknown"), "utf8"), "kept");
  });

  test("stage: refuses paths that are none, by field", async () => {
    await using jail = await makeJail((await planJail(options)).record);
    const kernel = file(work, "vmlinux", 0o644);
    for (const as of ["relative", "/a/../b", "/a/", "/a//b", "/", "/a\0b"])
      await assert.rejects(jail.stage(kernel, { access: "ro", as }), refusedBy("as"), as);
    for (const path of [join(work, "absent"), work, "/dev/null"])
      await assert.rejects(jail.stage(path, { access: "ro" }), refusedBy("hostPath"), path);
    const across = file(elsewhere, "x", 0o644);
    await assert.rejects(jail.stage(across, { access: "ro", method: "link" }), refusedBy("hostPath"));
    await assert.rejects(jail.stage(kernel, { access: "ro", signal: AbortSignal.abort() }), {
      name: "AbortError",
    });
  });

  test("stage: nothing goes through a link that the jailed program put in its root directory", async () => {
    await using jail = await makeJail((await planJail(options)).record);
    const { root } = jail.record;
    const kernel = file(work, "vmlinux", 0o644);
    await jail.stage(kernel, { access: "ro" });
    // What the jailer does to the root directory, and then what a hostile VMM can.
    chownSync(root, uid, gid);
    const outside = join(work, `outside-${number}`);
    mkdirSync(outside);
    renameSync(join(root, "files"), join(root, "old"));
    symlinkSync(outside, join(root, "files"));
    const other = file(work, "other", 0o644);
    for (const method of ["link", "bind", "copy"] as const)
      await assert.rejects(jail.stage(other, { access: "ro", method }), refusedBy("as"), method);
    await assert.rejects(jail.giveToJail("/files/x"), refusedBy("as"));
    rmSync(join(root, "files"));
    mkdirSync(join(root, "files"));
    chownSync(join(root, "files"), uid, gid);
    await assert.rejects(jail.stage(other, { access: "ro" }), refusedBy("as"));
    await assert.rejects(jail.stage(other, { access: "ro", as: "/other" }), refusedBy("as"));
    assert.deepEqual(readdirSync(outside), []);
  });

  test("stage: a block device gets a node of the jail's own, a unix socket is the same socket", async () => {
    await using jail = await makeJail((await planJail(options)).record);
    const device = join(work, `device-${number}`);
    execFileSync("mknod", ["-m", "0600", device, "b", "259", "70000"]);
    const path = await jail.stage(device, { access: "ro", as: "/drives/data" });
    const node = statSync(jail.hostPath(path));
    assert.ok(node.isBlockDevice());
    assert.deepEqual(
      [node.rdev, node.uid, node.gid, node.mode & 0o777],
      [statSync(device).rdev, uid, gid, 0o400],
    );
    assert.equal(statSync(device).uid, 0);
    await jail.removeNode(path);
    assert.equal(existsSync(jail.hostPath(path)), false);
    // As of a process that was killed before it wrote down what it had made.
    execFileSync("mknod", [jail.hostPath(path), "b", "259", "1"]);
    await jail.removeNode(path);
    assert.equal(existsSync(jail.hostPath(path)), false);
    // The next node of that name is another device's, and not taken for what is there already.
    rmSync(device);
    execFileSync("mknod", ["-m", "0600", device, "b", "259", "70001"]);
    await jail.stage(device, { access: "ro", as: path });
    assert.equal(statSync(jail.hostPath(path)).rdev, statSync(device).rdev);
    const plain = await jail.stage(file(work, `plain-${number}`, 0o644), { access: "ro" });
    await assert.rejects(jail.removeNode(plain), refusedBy("jailPath"));

    const socket = join(work, `backend-${number}.sock`);
    const server = createServer((connection) => connection.end("here"));
    server.listen(socket);
    await once(server, "listening");
    const socketPath = await jail.stage(socket, { access: "rw" });
    const client = createConnection(jail.hostPath(socketPath));
    const [chunk] = await once(client, "data");
    assert.equal(String(chunk), "here");
    server.close();
  });

  test("planJail, makeJail: refuses what is not there, and a jail that is, before anything is made", async () => {
    const rows: readonly [Partial<JailerOptions>, string][] = [
      [{ jailerBinary: join(work, "absent") }, "jailerBinary"],
      [{ jailerBinary: file(work, "no-program", 0o644) }, "jailerBinary"],
      [{ execFile: work }, "execFile"],
      [{ chrootBaseDir: join(work, "absent") }, "chrootBaseDir"],
      [{ chrootBaseDir: join(work, "vmm") }, "chrootBaseDir"],
      [{ netns: "/run/netns/absent" }, "netns"],
      [{ id: "a/b" }, "id"],
    ];
    for (const [change, field] of rows) {
      await assert.rejects(planJail({ ...options, ...change }), refusedBy(field), field);
    }
    assert.deepEqual(readdirSync(join(work, "jails")), []);
    const [plan, second] = [await planJail(options), await planJail(options)];
    const jail = await makeJail(plan.record);
    assert.deepEqual(plan.argv().slice(-2), ["--chroot-base-dir", join(work, "jails")]);
    const kept = await jail.stage(file(work, "vmlinux", 0o644), { access: "ro" });
    await assert.rejects(planJail(options), refusedBy("id"));
    await assert.rejects(makeJail(second.record), refusedBy("id"));
    await removeJailAt(second.record.directory, second.record.token);
    assert.ok(existsSync(jail.hostPath(kept)), "the refusal touched the other's jail");
    await jail.remove();
    await jail.remove();
    assert.ok(!existsSync(jail.record.directory));
  });

  test("awaitPidFile: the process of the jail, and never another", async () => {
    await using jail = await makeJail((await planJail(options)).record);
    const { root } = jail.record;
    const busybox = await jail.stage("/bin/busybox", { access: "ro", as: "/busybox" });
    const found = awaitPidFile(jail.record, AbortSignal.timeout(30_000));
    const script = "echo >/other; printf $$ >/vmm.pid; exec /busybox sleep 1000";
    const inside = spawn("chroot", [root, busybox, "sh", "-c", script], { stdio: "ignore" });
    const identity = await found;
    assert.ok(identity !== "ended");
    assert.equal(identity.pid, inside.pid);
    const started = readFileSync(`/proc/${inside.pid}/stat`, "latin1").split(") ")[1]?.split(" ")[19];
    assert.equal(identity.startTime, started);
    assert.deepEqual(await jailProcesses(jail.record), [identity]);
    // A jailed program may write any pid.
    writeFileSync(join(root, "vmm.pid"), String(process.pid));
    assert.equal(await awaitPidFile(jail.record, AbortSignal.timeout(30_000)), "ended");
    const ended = once(inside, "exit");
    await jail.remove();
    assert.deepEqual(await ended, [null, "SIGKILL"]);
  });

  test("a kill -9 of the program that makes a jail, at every step: its journal is enough to leave nothing", async () => {
    const journal = join(work, "journal");
    const disk = file(work, "disk.img", 0o600);
    const files = [
      [file(work, "vmlinux", 0o644), { access: "ro" }],
      [file(elsewhere, "shared.img", 0o644), { access: "ro" }],
      [file(work, "secret.img", 0o600), { access: "ro" }],
      [disk, { access: "rw" }],
    ];
    const cgroups = ["pids.max=64"] as const;
    writeFileSync(join(work, "options.json"), JSON.stringify({ ...options, cgroups }));
    writeFileSync(join(work, "files.json"), JSON.stringify(files));
    const program = join(import.meta.dirname, "support/crashing-jail.ts");
    const owners: number[] = [];
    let processes = 0;
    // The seventh is never written: there the program ends with a process in the jail.
    for (const step of [1, 2, 3, 4, 5, 6, 7, 8]) {
      const args = [program, join(work, "options.json"), journal, join(work, "files.json"), String(step)];
      const result = spawnSync(process.execPath, args, { encoding: "utf8" });
      assert.equal(result.signal, "SIGKILL", result.stderr);
      // Our own, read back.
      const record = JSON.parse(readFileSync(journal, "utf8")) as JailRecord;
      owners.push(statSync(disk).uid);
      const running = await jailProcesses(record);
      processes += running.length;
      assert.equal(record.cgroups.length, 1);
      await removeJail(record);
      await removeJail(record);
      assert.ok(!existsSync(record.directory), `step ${step}`);
      for (const cgroup of [...record.cgroups, ...record.cgroupParents])
        assert.ok(!existsSync(cgroup), `step ${step}: ${cgroup}`);
      assert.deepEqual(await mountedBelow(record.directory), []);
      assert.equal(statSync(disk).uid, 0);
      for (const { pid } of running) assert.equal(vmmIdentity(pid), undefined);
    }
    assert.ok(owners.includes(uid), "no crash came while the drive was the jail's");
    assert.ok(processes > 0, "no crash came while a process ran in the jail");
  });
});
