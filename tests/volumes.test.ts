/** Host directories in a microVM, by crictl: the same program on a plain directory and on a volume, and what only a volume has. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { crictl, crictlPath } from "./support/crictl.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

type MountOption = {
  readonly host: string;
  readonly at: string;
  readonly readonly?: boolean;
  readonly recursive?: boolean;
  /** 0 private, 1 host to container, 2 bidirectional */
  readonly propagation?: number;
};

describe("volumes of a microVM", () => {
  const work = mkdtempSync("/tmp/tb-");
  const host = (name: string): string => join(work, "host", name);
  const checker = join(work, "host/tools/volume-check");
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let image = "";
  let pod = { id: "", config: "" };
  let main = "";

  const start = (): Promise<TestDaemon> =>
    startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: cni.toml,
    });

  const ok = (...args: string[]): string => {
    const result = crictl(daemon.socket, ...args);
    assert.equal(result.code, 0, `crictl ${args.join(" ")}: ${result.stderr}\n${daemon.said().slice(-3000)}`);
    return result.stdout.trimEnd();
  };
  const sh = (container: string, script: string): string =>
    ok("exec", "--sync", container, "sh", "-c", script);

  const writeContainer = (name: string, mounts: readonly MountOption[]): string => {
    const path = join(work, `${name}.json`);
    const config = {
      metadata: { name, attempt: 1 },
      image: { image },
      command: ["sleep", "100000"],
      linux: { security_context: { namespace_options: { pid: 1 } } },
      mounts: mounts.map((mount) => ({
        host_path: mount.host,
        container_path: mount.at,
        readonly: mount.readonly ?? false,
        recursive_read_only: mount.recursive ?? false,
        propagation: mount.propagation ?? 0,
      })),
    };
    writeFileSync(path, JSON.stringify(config));
    return path;
  };
  const create = (name: string, mounts: readonly MountOption[]): string => {
    const id = ok("create", pod.id, writeContainer(name, mounts), pod.config);
    ok("start", id);
    return id;
  };
  const runPod = (name: string): { id: string; config: string } => {
    const config = join(work, `${name}-pod.json`);
    const metadata = { name, namespace: "test", uid: name, attempt: 1 };
    const linux = { security_context: { namespace_options: { pid: 1 } } };
    writeFileSync(config, JSON.stringify({ metadata, hostname: name, linux }));
    return { id: ok("runp", "--runtime", "firecracker", config), config };
  };
  const serverOf = (podId: string): number => {
    const directory = join(work, "root/microvm/sandboxes");
    const [name] = execFileSync("ls", [directory], { encoding: "utf8" }).trim().split("\n");
    const { server } = JSON.parse(readFileSync(join(directory, name ?? podId, "volumes.json"), "utf8"));
    return server.pid;
  };

  before(async () => {
    snapshot = snapshotHost([]);
    for (const name of ["tools", "data", "plain", "config", "nested/below", "rro/below", "slave", "private"])
      mkdirSync(host(name), { recursive: true });
    execFileSync("cc", [
      "-O1",
      "-static",
      "-w",
      "-o",
      checker,
      join(import.meta.dirname, "volumes/volume-check.c"),
    ]);
    for (const name of ["nested/below", "rro/below"])
      execFileSync("mount", ["-t", "tmpfs", "below", host(name)]);
    // A volume whose later mounts a guest shall see has to be a shared mount, as it is under systemd.
    for (const name of ["slave", "private"]) {
      execFileSync("mount", ["--bind", host(name), host(name)]);
      execFileSync("mount", ["--make-shared", host(name)]);
    }
    mkdirSync(host("slow"));
    execFileSync("truncate", ["--size=16M", join(work, "slow.ext4")]);
    execFileSync("mkfs.ext4", ["-q", join(work, "slow.ext4")]);
    execFileSync("mount", ["-o", "loop", join(work, "slow.ext4"), host("slow")]);
    rmSync(host("slow/lost+found"), { recursive: true });
    for (const name of ["there", "written1", "written2", "written3"])
      writeFileSync(host(`slow/${name}`), `${name}\n`);
    mkdirSync(host("config/..first"));
    mkdirSync(host("config/..second"));
    writeFileSync(host("config/..first/key"), "first");
    writeFileSync(host("config/..second/key"), "second");
    symlinkSync("..first", host("config/..data"));
    symlinkSync("..data/key", host("config/key"));
    writeFileSync(host("file"), "one file\n");
    writeFileSync(host("outside"), "the host's\n");
    registry = await startRegistry({ dir: join(work, "registry") });
    image = `${registry.host}/test/busybox:latest`;
    await pushBusyboxImage(registry.url, "test/busybox", "latest");
    cni = writeBridgeConf(join(work, "cni"));
    daemon = await start();
    ok("pull", image);
    pod = runPod("volumes");
    main = create("main", [
      { host: host("tools"), at: "/tools", readonly: true },
      { host: host("data"), at: "/data" },
      { host: host("config"), at: "/config", readonly: true },
      { host: host("file"), at: "/etc/one-file" },
      { host: host("made/by-us"), at: "/made" },
      { host: host("nested"), at: "/nested", readonly: true },
      { host: host("rro"), at: "/rro", readonly: true, recursive: true },
      { host: host("slave"), at: "/slave", propagation: 1 },
      { host: host("private"), at: "/private" },
      { host: host("slow"), at: "/slow" },
    ]);
  });

  const tearDown = async (): Promise<void> => {
    await daemon.stop();
    await registry.stop();
    cni.remove();
    for (const name of [
      "nested/below",
      "rro/below",
      "slave/late",
      "private/late",
      "slave",
      "private",
      "slow",
    ]) {
      if (existsSync(host(name))) spawnSyncQuietly("umount", ["-l", host(name)]);
    }
    rmSync(work, { recursive: true, force: true });
  };
  const spawnSyncQuietly = (file: string, args: readonly string[]): void => {
    try {
      execFileSync(file, args, { stdio: "ignore" });
    } catch {
      // It was not mounted.
    }
  };
  let isDown = false;
  after(async () => {
    if (!isDown) await tearDown();
  });

  const onPlainDirectory = (...args: string[]): string => {
    rmSync(host("plain"), { recursive: true });
    mkdirSync(host("plain"));
    return execFileSync(checker, [args[0] ?? "", host("plain"), ...args.slice(1)], {
      encoding: "utf8",
      maxBuffer: 64 << 20,
    });
  };
  const onVolume = (...args: string[]): string => {
    const directory = `/data/${args[0]}`;
    sh(main, `rm -rf ${directory}; mkdir ${directory}`);
    return ok("exec", "--sync", main, "/tools/volume-check", args[0] ?? "", directory, ...args.slice(1));
  };
  const assertSame = (volume: string, plain: string, about: string): void => {
    const [got, wanted] = [volume.trimEnd().split("\n"), plain.trimEnd().split("\n")];
    const at = wanted.findIndex((line, n) => line !== got[n]);
    const context = (lines: readonly string[]): string =>
      lines.slice(Math.max(0, at - 3), at + 2).join("\n  ");
    assert.ok(
      at < 0 && got.length === wanted.length,
      `${about}: line ${at} differs\non the volume:\n  ${context(got)}\non a plain directory:\n  ${context(wanted)}`,
    );
  };

  test("system calls give what they give on a plain directory", () => {
    assertSame(onVolume("battery"), onPlainDirectory("battery"), "battery");
    // What was made there is on the host as it was made in the guest.
    const suid = statSync(host("data/battery/suid"));
    assert.deepEqual([suid.uid, suid.gid, suid.mode & 0o7777], [5, 6, 0o755]);
    assert.equal(statSync(host("data/battery/sticky/mine")).uid, 1000);
    assert.equal(readlinkSync(host("data/battery/d/up")), "../d/../a");
    execFileSync("cmp", [host("data/battery/big"), host("plain/big")]);
    execFileSync("cmp", [host("data/battery/copy"), host("plain/copy")]);
  });

  test("random operations give what they give on a plain directory", (t) => {
    const seed = process.env["VOLUME_SEED"] ?? String(randomInt(1, 2 ** 31));
    t.diagnostic(`VOLUME_SEED=${seed}`);
    const plain = onPlainDirectory("random", seed, "1500");
    assertSame(onVolume("random", seed, "1500"), plain, `random operations, VOLUME_SEED=${seed}`);
    execFileSync("diff", ["-r", host("data/random"), host("plain")]);
  });

  test("a directory of 10,000 entries is read whole", () => {
    mkdirSync(host("data/many"));
    for (let n = 0; n < 10_000; n++) writeFileSync(host(`data/many/an-entry-with-a-name-${n}`), "");
    const plain = execFileSync(checker, ["list", host("data/many")], { encoding: "utf8" });
    assert.match(plain, /^10000 entries/);
    assert.equal(`${ok("exec", "--sync", main, "/tools/volume-check", "list", "/data/many")}\n`, plain);
    rmSync(host("data/many"), { recursive: true });
  });

  test("a tree with more files than the server may have open: the guest's kernel is made to forget some", () => {
    const pid = String(serverOf(pod.id));
    const held = (): number => readdirSync(`/proc/${pid}/fd`).length;
    for (let n = 0; n < 1000; n++) {
      mkdirSync(host(`data/tree/${n % 20}`), { recursive: true });
      writeFileSync(host(`data/tree/${n % 20}/${n}`), "");
    }
    const bound = held() + 10;
    execFileSync("prlimit", ["--pid", pid, `--nofile=${bound}:20000`]);
    try {
      assert.equal(
        sh(main, "ls -lR /data/tree 2>&1 | grep -c '^-rw'; mkdir /data/tree/new; ls -d /data/tree/new"),
        "1000\n/data/tree/new",
      );
      assert.ok(held() <= bound);
    } finally {
      execFileSync("prlimit", ["--pid", pid, "--nofile=20000:20000"]);
    }
    rmSync(host("data/tree"), { recursive: true });
  });

  test("speed, where VOLUME_BENCH asks for it", { skip: process.env["VOLUME_BENCH"] === undefined }, (t) => {
    t.diagnostic(`on a plain directory:\n${onPlainDirectory("bench")}`);
    t.diagnostic(`on the volume:\n${onVolume("bench")}`);
    const memory = readFileSync(`/proc/${serverOf(pod.id)}/status`, "utf8").match(/VmRSS:.*|Threads:.*/g);
    t.diagnostic(`the server: ${memory?.join(", ")}`);
  });

  test("writes are seen both ways at once, also by who has the file open", () => {
    writeFileSync(host("data/shared"), "by the host 1");
    assert.equal(sh(main, "cat /data/shared"), "by the host 1");
    for (let n = 0; n < 5; n++) {
      writeFileSync(host("data/shared"), `by the host ${n}`);
      assert.equal(sh(main, "cat /data/shared"), `by the host ${n}`);
      sh(main, `printf 'by the guest ${n}' > /data/shared`);
      assert.equal(readFileSync(host("data/shared"), "utf8"), `by the guest ${n}`);
    }
    // By a process that has the file open, and its pages in memory.
    sh(
      main,
      "mkfifo /tmp/go /tmp/said; /tools/volume-check watch /data/shared /tmp/go /tmp/said >/dev/null 2>&1 &",
    );
    for (const text of ["abc", "xyz", "longer than that", "s"]) {
      writeFileSync(host("data/shared"), text);
      assert.equal(sh(main, "echo > /tmp/go; cat /tmp/said"), `${text}, mapped ${text}`);
    }
    sh(main, "kill $(pidof volume-check)");
    sh(main, "rm -f /data/gone; echo x > /data/gone");
    rmSync(host("data/gone"));
    assert.equal(sh(main, "cat /data/gone 2>/dev/null || echo gone"), "gone");
    sh(main, "rm /data/shared");
    assert.equal(existsSync(host("data/shared")), false);
  });

  test("the swap of a ConfigMap's ..data is seen at once", () => {
    for (let n = 0; n < 6; n++) {
      const target = n % 2 === 0 ? "..second" : "..first";
      assert.equal(sh(main, "cat /config/key"), n % 2 === 0 ? "first" : "second");
      symlinkSync(target, host("config/..data_tmp"));
      renameSync(host("config/..data_tmp"), host("config/..data"));
      assert.equal(
        sh(main, "cat /config/key; readlink /config/..data"),
        n % 2 === 0 ? "second..second" : "first..first",
      );
    }
  });

  test("23, a symlink is followed in the container, never on the host (CVE-2026-47243)", () => {
    symlinkSync(host("outside"), host("data/absolute"));
    symlinkSync("../outside", host("data/relative"));
    symlinkSync("/etc/hostname", host("data/hostname"));
    assert.equal(sh(main, "cat /data/absolute 2>/dev/null || echo none"), "none");
    assert.equal(
      sh(main, "echo 'the container'\\''s' > /outside; cat /data/relative; rm /outside"),
      "the container's",
    );
    assert.equal(sh(main, "cat /data/hostname"), "volumes");
    assert.equal(readFileSync(host("outside"), "utf8"), "the host's\n");
  });

  test("one file is a volume, and a source that is missing is made as a directory", () => {
    assert.equal(
      sh(main, "cat /etc/one-file; echo two >> /etc/one-file; stat -c %F /etc/one-file"),
      "one file\nregular file",
    );
    assert.equal(readFileSync(host("file"), "utf8"), "one file\ntwo\n");
    sh(main, "echo x > /made/x");
    assert.equal(readFileSync(host("made/by-us/x"), "utf8"), "x\n");
  });

  test("read-only is the host's word: also when the guest mounts it writable; recursive is below it, too", () => {
    assert.match(sh(main, "(echo x > /config/x) 2>&1; echo $?"), /Read-only file system\n1$/);
    assert.match(sh(main, "(echo x > /nested/x) 2>&1; echo $?"), /Read-only file system\n1$/);
    // Mounted writable in the guest, as something below it has to be.
    assert.match(sh(main, "grep ' /nested ' /proc/mounts"), / rw,/);
    assert.match(sh(main, "chmod 700 /nested 2>&1; echo $?"), /Read-only file system\n1$/);
    assert.equal(sh(main, "echo below > /nested/below/x; cat /nested/below/x"), "below");
    assert.equal(readFileSync(host("nested/below/x"), "utf8"), "below\n");
    assert.match(sh(main, "(echo x > /rro/below/x) 2>&1; echo $?"), /Read-only file system\n1$/);
  });

  test("what the host mounts later is seen with HOST_TO_CONTAINER, and not with PRIVATE; BIDIRECTIONAL is refused", () => {
    for (const name of ["slave", "private"]) {
      mkdirSync(host(`${name}/late`));
      execFileSync("mount", ["-t", "tmpfs", "late", host(`${name}/late`)]);
      writeFileSync(host(`${name}/late/file`), name);
    }
    assert.equal(sh(main, "cat /slave/late/file"), "slave");
    assert.equal(sh(main, "ls /private/late"), "");
    // Lazily: a directory that the guest has looked into is open here until its kernel forgets it.
    execFileSync("umount", ["-l", host("slave/late")]);
    assert.equal(sh(main, "ls /slave/late"), "");
    const path = writeContainer("both-ways", [{ host: host("slave"), at: "/x", propagation: 2 }]);
    const refused = crictl(daemon.socket, "create", pod.id, path, pod.config);
    assert.notEqual(refused.code, 0);
    assert.match(refused.stderr, /InvalidArgument.*mounts\[0\]\.propagation PROPAGATION_BIDIRECTIONAL/s);
  });

  test("what is no directory and no file is refused by name", () => {
    execFileSync("mknod", [host("device"), "c", "1", "3"]);
    const path = writeContainer("device", [{ host: host("device"), at: "/x" }]);
    const refused = crictl(daemon.socket, "create", pod.id, path, pod.config);
    assert.match(
      refused.stderr,
      /InvalidArgument.*mounts\.host_path.*device.*a directory or a regular file/s,
    );
    rmSync(host("device"));
  });

  test("two containers share a volume, its locks too; the host's locks are apart", async () => {
    const second = create("second", [
      { host: host("data"), at: "/other" },
      { host: host("tools"), at: "/tools", readonly: true },
    ]);
    sh(main, "echo from-main > /data/between");
    assert.equal(sh(second, "cat /other/between"), "from-main");
    const held = spawn(crictlPath, [
      ...["--runtime-endpoint", `unix://${daemon.socket}`, "exec", main],
      ...["/tools/volume-check", "lock", "/data/lock"],
    ]);
    await untilSays(held, "flock 0");
    assert.equal(
      ok("exec", "--sync", second, "/tools/volume-check", "locked", "/other/lock"),
      "POSIX EAGAIN\nflock EAGAIN",
    );
    assert.equal(
      execFileSync(checker, ["locked", host("data/lock")], { encoding: "utf8" }),
      "POSIX 0\nflock 0\n",
    );
    sh(main, "kill $(pidof volume-check)");
    held.kill();
    assert.equal(
      ok("exec", "--sync", second, "/tools/volume-check", "locked", "/other/lock"),
      "POSIX 0\nflock 0",
    );
    ok("rm", "--force", second);
    assert.equal(sh(main, "cat /data/between"), "from-main");
  });

  test("requests that hang hold up no other of the same volume", () => {
    // Who writes to a frozen file system waits; three do.
    execFileSync("fsfreeze", ["--freeze", host("slow")]);
    try {
      sh(
        main,
        "for n in 1 2 3; do (echo $n >> /slow/written$n; echo $n >> /tmp/done) >/dev/null 2>&1 & done",
      );
      const seen = sh(main, "cat /slow/there; ls /slow | wc -l; cat /tmp/done 2>/dev/null; true");
      assert.equal(seen, "there\n4");
    } finally {
      execFileSync("fsfreeze", ["--unfreeze", host("slow")]);
    }
    const waits = "while [ $(cat /tmp/done 2>/dev/null | wc -l) != 3 ]; do sleep 0.1; done";
    assert.equal(sh(main, `${waits}; cat /slow/written*`), "written1\n1\nwritten2\n2\nwritten3\n3");
  });

  test("23, the server sees nothing but the volumes, and may do nothing but serve files (CVE-2026-47243)", () => {
    const pid = serverOf(pod.id);
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    assert.match(status, /^CapEff:\s+00000000800000df$/m);
    assert.match(status, /^CapBnd:\s+00000000800000df$/m);
    assert.match(status, /^NoNewPrivs:\s+1$/m);
    assert.match(status, /^Seccomp:\s+2$/m);
    for (const kind of ["mnt", "pid", "net", "ipc", "uts"])
      assert.notEqual(readlinkSync(`/proc/${pid}/ns/${kind}`), readlinkSync(`/proc/self/ns/${kind}`), kind);
    const points = readFileSync(`/proc/${pid}/mountinfo`, "utf8")
      .trim()
      .split("\n")
      .map((line) => line.split(" ")[4] ?? "");
    assert.deepEqual(
      points.filter((point) => point !== "/" && point !== "/proc" && !/^\/volumes\/v\d+/.test(point)),
      [],
    );
    assert.deepEqual(
      execFileSync("ls", [`/proc/${pid}/root/`], { encoding: "utf8" })
        .trim()
        .split("\n"),
      ["maps", "proc", "volumes"],
    );
  });

  test("a daemon killed and started again: the volumes go on, new ones too", async () => {
    await daemon.kill9();
    writeFileSync(host("data/meanwhile"), "while no daemon ran");
    daemon = await start();
    assert.equal(sh(main, "cat /data/meanwhile"), "while no daemon ran");
    const third = create("third", [
      { host: host("data"), at: "/third" },
      { host: host("made"), at: "/new" },
    ]);
    assert.equal(sh(third, "cat /third/meanwhile; ls /new"), "while no daemon ranby-us");
    ok("rm", "--force", third);
  });

  test("a server killed in the middle: EIO in the guest, the pod can be removed", () => {
    const pid = serverOf(pod.id);
    sh(main, "(while :; do echo x >> /data/log || break; done; echo $? > /tmp/ended) >/dev/null 2>&1 &");
    process.kill(pid, "SIGKILL");
    assert.match(
      sh(main, "cat /data/between 2>&1; ls /data 2>&1; true"),
      /between': Input\/output error\n.*\/data: Input\/output error/,
    );
    assert.equal(sh(main, "while [ ! -e /tmp/ended ]; do sleep 0.1; done; cat /tmp/ended"), "0");
    const again = create("again", [{ host: host("data"), at: "/data" }]);
    assert.equal(sh(again, "cat /data/between"), "from-main");
    ok("rmp", "--force", pod.id);
  });

  test("nothing is left", async () => {
    await tearDown();
    isDown = true;
    assertNothingAdded(snapshot);
  });
});

async function untilSays(child: ChildProcess, text: string): Promise<void> {
  let said = "";
  await new Promise<void>((resolve, reject) => {
    child.stdout?.on("data", (chunk: Buffer) => {
      said += chunk.toString("utf8");
      if (said.includes(text)) resolve();
    });
    child.once("exit", () => reject(new Error(`it ended; it had said: ${said}`)));
  });
}
