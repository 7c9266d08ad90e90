/** CheckpointContainer with real runc and CRIU: what is in the archive, that the container goes on, and that nothing is left when it fails. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { type TestContainer, TestCri } from "./support/cri-client.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { hasEnded } from "./support/process-tree.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

/** Any other CRIU may be tried: `CRIU_BIN=/usr/sbin node --test tests/checkpoint.test.ts`. */
const criu = process.env["CRIU_BIN"] ?? join(import.meta.dirname, "../.cache/criu/bin");
const skip = existsSync(join(criu, "criu"))
  ? false
  : "tools/setup.sh checkpoint has no CRIU for this machine";
const checkpointctl = join(import.meta.dirname, "clients-checkpointctl/bin/checkpointctl");

/** Counts in its memory alone, and says where it is in a file. */
const counter = [
  "sh",
  "-c",
  "rm /etc/group; echo new >/etc/new; rm -r /root; mkdir /root; echo mine >/root/own; mkdir -p /data; ln -s /etc/shadow /data/link; " +
    "n=0; while :; do n=$((n+1)); echo $n >/data/n; sleep 0.05; done",
];

/** Whether this CRIU can dump a socket: before 4.2 it asked for options that only some have since Linux 6.16. */
function canDumpSockets(): boolean {
  const numbers = (text: string): number => {
    const [, major = "0", minor = "0"] = /(\d+)\.(\d+)/.exec(text) ?? [];
    return Number(major) * 1000 + Number(minor);
  };
  const version = spawnSync(join(criu, "criu"), ["--version"], { encoding: "utf8" }).stdout;
  return numbers(version) >= 4002 || numbers(release()) < 6016;
}

function lastErrors(directory: string): string {
  const log = readFileSync(join(directory, "restore.log"), "utf8");
  return log
    .split("\n")
    .filter((line) => line.includes("Error"))
    .join("\n");
}

describe("checkpoints", { skip }, () => {
  const work = mkdtempSync("/tmp/tb-");
  const out = join(work, "out");
  const path = process.env["PATH"] ?? "";
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let cri: TestCri;
  let image = "";
  let podId = "";
  let config: ReturnType<TestCri["podConfig"]>;
  let main: TestContainer;

  /** The daemon on the same root, with other programs first on its PATH, or other settings. */
  const start = async (programs: string, more = ""): Promise<void> => {
    process.env["PATH"] = programs === "" ? path : `${programs}:${path}`;
    daemon = await startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: `${more}\n${cni.toml}`,
    });
    process.env["PATH"] = path;
    cri = new TestCri(daemon.socket, work);
  };
  const stop = async (): Promise<void> => {
    cri[Symbol.dispose]();
    await daemon.stop();
  };
  const checkpoint = (location: string, containerId = main.id, timeout = 0n) =>
    cri.runtime.callUnary("checkpointContainer", { containerId, location, timeout });
  const count = async (): Promise<number> => Number(await cri.output(main, "cat", "/data/n"));
  /** The container counts on. */
  const goesOn = async (): Promise<void> => {
    const from = await count();
    for (let tries = 0; (await count()) <= from; tries++) {
      assert.ok(tries < 100, `it stands still at ${from}`);
      await delay(50);
    }
    const { status } = await cri.runtime.callUnary("containerStatus", { containerId: main.id });
    assert.equal(status?.state, 1);
  };
  const nothingIsLeft = (...kept: readonly string[]): void => {
    assert.deepEqual(readdirSync(out).sort(), [...kept].sort());
    const parts = join(work, "root", "checkpoints");
    assert.deepEqual(existsSync(parts) ? readdirSync(parts) : [], []);
  };
  /** Programs of its own for a daemon: a `criu` that is the real one, but takes its time to begin a dump. */
  const slowCriu = (): string => {
    const directory = join(work, "slow");
    mkdirSync(directory, { recursive: true });
    writeFileSync(
      join(directory, "criu"),
      `#!/bin/sh\n[ "$1" != swrk ] || sleep 3\nexec ${join(criu, "criu")} "$@"\n`,
      { mode: 0o755 },
    );
    return directory;
  };

  /** The process of a checkpoint, once the runtime has begun with it. */
  const helper = async (containerId = main.id): Promise<number> => {
    const parts = join(work, "root", "checkpoints", containerId);
    const journal = join(parts, ".journal.json");
    for (let tries = 0; tries < 200; tries++) {
      const pid: unknown = existsSync(journal)
        ? JSON.parse(readFileSync(journal, "utf8")).process?.pid
        : undefined;
      if (typeof pid === "number" && existsSync(join(parts, "checkpoint"))) return pid;
      await delay(20);
    }
    return assert.fail("no checkpoint has begun");
  };

  before(async () => {
    snapshot = snapshotHost([]);
    mkdirSync(out);
    chmodSync(work, 0o711);
    registry = await startRegistry({ dir: join(work, "registry") });
    image = `${registry.host}/test/busybox:latest`;
    await pushBusyboxImage(registry.url, "test/busybox", "latest");
    cni = writeBridgeConf(join(work, "cni"));
    await start(criu);
    await cri.pull(image);
    config = cri.podConfig();
    podId = await cri.runPod("runc", config);
    main = await cri.start(podId, config, image, { command: counter });
    for (let tries = 0; (await cri.exec(main, "cat", "/data/n")).exitCode !== 0 && tries < 100; tries++)
      await delay(50);
  });

  const tearDown = async (): Promise<void> => {
    await cri.removePods();
    await stop();
    await registry.stop();
    cni.remove();
    rmSync(work, { recursive: true, force: true });
  };
  let isDown = false;
  after(async () => {
    if (!isDown) await tearDown();
  });

  test("an archive has the processes, the changed files and what they belong to; the container goes on", async () => {
    const location = join(out, "checkpoint.tar");
    const earlier = await count();
    await checkpoint(location);
    await goesOn();
    assert.equal(lstatSync(location).mode & 0o7777, 0o600);
    nothingIsLeft("checkpoint.tar");
    const unpacked = join(work, "unpacked");
    mkdirSync(unpacked);
    assert.equal(spawnSync("tar", ["-xf", location, "-C", unpacked]).status, 0);
    assert.deepEqual(readdirSync(unpacked).sort(), [
      "bind.mounts",
      "checkpoint",
      "config.dump",
      "deleted.files",
      "dump.log",
      "rootfs-diff.tar",
      "spec.dump",
      "stats-dump",
      "status",
    ]);
    const json = (name: string) => JSON.parse(readFileSync(join(unpacked, name), "utf8"));
    for (const name of ["inventory.img", "pstree.img", "core-1.img", "pages-1.img", "descriptors.json"])
      assert.ok(existsSync(join(unpacked, "checkpoint", name)), name);
    const dump = json("config.dump");
    assert.deepEqual([dump.id, dump.runtime, dump.rootfsImage], [main.id, "runc", image]);
    assert.equal(json("spec.dump").annotations["io.kubernetes.cri.sandbox-id"], podId);
    assert.deepEqual(json("spec.dump").process.args, counter);
    assert.deepEqual(json("deleted.files"), ["/etc/group", "/root"]);
    const diff = spawnSync("tar", ["-tvf", join(unpacked, "rootfs-diff.tar")], { encoding: "utf8" }).stdout;
    // CRIU itself makes something in /tmp and takes it away.
    const names = diff.split("\n").flatMap((line) => /\d\d:\d\d (\S+)/.exec(line)?.[1] ?? []);
    assert.deepEqual(
      names.filter((name) => name !== "tmp/"),
      ["data/", "data/link", "data/n", "etc/", "etc/new", "root/", "root/own"],
      diff,
    );
    const { stdout } = spawnSync("tar", ["-xOf", join(unpacked, "rootfs-diff.tar"), "data/n"], {
      encoding: "utf8",
    });
    assert.ok(Number(stdout) >= earlier, `${stdout} after ${earlier}`);
    // What others read it with.
    const inspect = ["inspect", "--all", "--format", "json", location];
    const read = spawnSync(checkpointctl, inspect, { encoding: "utf8" });
    assert.equal(read.status, 0, read.stderr);
    const [seen] = JSON.parse(read.stdout);
    assert.deepEqual(
      [seen.id, seen.image, seen.runtime, seen.metadata.pod_name, seen.process_tree.command],
      [main.id, image, "runc", config.metadata?.name, "sh"],
      read.stdout,
    );
    rmSync(location);
  });

  test("runc goes on from the archive where the container was", async () => {
    const location = join(out, "restore.tar");
    await checkpoint(location);
    const bundle = join(work, "restored");
    const rootfs = join(bundle, "rootfs");
    mkdirSync(rootfs, { recursive: true });
    const [mounted = ""] = readdirSync(join(work, "run", "runc", "sandboxes"));
    const agent = join(work, "run", "runc", "sandboxes", mounted, "agent");
    const tar = (...args: readonly string[]): void => {
      const { status, stderr } = spawnSync("tar", args, { encoding: "utf8" });
      assert.equal(status, 0, stderr);
    };
    // The image, with what the archive says was changed.
    tar("-xf", location, "-C", bundle);
    spawnSync("cp", ["-a", `${join(agent, "containers", main.id, "rootfs")}/.`, rootfs]);
    const at = Number(
      spawnSync("tar", ["-xOf", join(bundle, "rootfs-diff.tar"), "data/n"], { encoding: "utf8" }).stdout,
    );
    const spec = JSON.parse(readFileSync(join(bundle, "spec.dump"), "utf8"));
    spec.root.path = rootfs;
    spec.linux.cgroupsPath = "/tinderbox-restored";
    writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
    rmSync(join(rootfs, "data/n"));
    const root = join(work, "runc");
    // The container's output was two pipes, and wants to be again; what Node gives its children are sockets.
    const script = '{ "$@" 2>&1; echo $? >"$0.new"; mv "$0.new" "$0"; } | cat >/dev/null';
    const runc = async (...args: readonly string[]): Promise<number> => {
      const answer = join(work, "answer");
      rmSync(answer, { force: true });
      spawn("sh", ["-c", script, answer, "runc", "--root", root, ...args], {
        env: { ...process.env, PATH: `${criu}:${path}` },
        stdio: "ignore",
      });
      for (let tries = 0; !existsSync(answer) && tries < 600; tries++) await delay(50);
      return Number(readFileSync(answer, "utf8"));
    };
    const images = ["--image-path", join(bundle, "checkpoint"), "--work-path", bundle];
    try {
      const code = await runc("restore", "--detach", "--bundle", bundle, ...images, "restored");
      assert.equal(code, 0, code === 0 ? "" : lastErrors(bundle));
      for (let tries = 0; !existsSync(join(rootfs, "data/n")) && tries < 100; tries++) await delay(50);
      const now = Number(readFileSync(join(rootfs, "data/n"), "utf8"));
      assert.ok(now > at && now < at + 1000, `${now} after ${at}`);
    } finally {
      await runc("delete", "--force", "restored");
      rmSync(bundle, { recursive: true, force: true });
      rmSync(location);
    }
    await goesOn();
  });

  test("a connection of the container lives through its checkpoint", async () => {
    const talk = "nc -l -p 7777 -e sleep 1000 & sleep 0.2; sleep 1000 | nc 127.0.0.1 7777";
    const talker = await cri.start(podId, config, image, { command: ["sh", "-c", talk] });
    const ends = async (): Promise<string[]> =>
      (await cri.output(talker, "netstat", "-tn"))
        .split("\n")
        .filter((line) => /:7777 .*ESTABLISHED/.test(line));
    for (let tries = 0; (await ends()).length < 2 && tries < 100; tries++) await delay(50);
    assert.equal((await ends()).length, 2);
    const location = join(out, "talker.tar");
    if (canDumpSockets()) await checkpoint(location, talker.id);
    else await assert.rejects(checkpoint(location, talker.id), /criu: sockets: Can't get 1:16 opt/);
    assert.equal((await ends()).length, 2);
    nothingIsLeft(...(canDumpSockets() ? ["talker.tar"] : []));
    rmSync(location, { force: true });
    await cri.runtime.callUnary("removeContainer", { containerId: talker.id });
  });

  test("what cannot be checkpointed is refused by its reason, and nothing is made", async () => {
    const location = join(out, "no.tar");
    const created = await cri.create(podId, config, image);
    const [machine, other] = [cri.podConfig(), cri.podConfig()];
    const [machinePod, crunPod] = [await cri.runPod("firecracker", machine), await cri.runPod("crun", other)];
    const inMachine = await cri.start(machinePod, machine, image);
    const byCrun = await cri.start(crunPod, other, image);
    symlinkSync(join(work, "elsewhere"), join(out, "link"));
    mkdirSync(join(out, "directory"));
    // What crun says of itself decides.
    const { stdout } = spawnSync("crun", ["--version"], { encoding: "utf8" });
    const rows: readonly (readonly [string, string, string, RegExp])[] = [
      ["no.tar", main.id, "INVALID", /^location: "no\.tar" .*absolute/],
      [`${out}/../no.tar`, main.id, "INVALID", /^location: /],
      [`${out}/`, main.id, "INVALID", /the path of a file/],
      [`${out}/none/no.tar`, main.id, "INVALID", /its directory must be there/],
      [`${out}/link`, main.id, "INVALID", /no regular file/],
      [`${out}/directory`, main.id, "INVALID", /no regular file/],
      ["/dev/null", main.id, "INVALID", /no regular file/],
      [location, "0123456789abcdef", "NOT_FOUND", /0123456789abcdef/],
      [location, created.id, "WRONG_STATE", /is created; it must be running/],
      [
        location,
        inMachine.id,
        "UNSUPPORTED",
        /handler firecracker are not checkpointed: a guest has no CRIU/,
      ],
      ...(stdout.includes("+CRIU")
        ? []
        : ([[location, byCrun.id, "UNSUPPORTED", /crun \S+ is built without CRIU: .* no \+CRIU/]] as const)),
    ];
    for (const [where, id, code, message] of rows)
      await assert.rejects(checkpoint(where, id), { code, message }, where);
    await assert.rejects(checkpoint(location, main.id, -1n), { code: "INVALID", message: /^timeout/ });
    assert.ok(!existsSync(join(work, "elsewhere")));
    nothingIsLeft("directory", "link");
    rmSync(join(out, "link"));
    rmSync(join(out, "directory"), { recursive: true });
    for (const pod of [machinePod, crunPod]) {
      await cri.runtime.callUnary("stopPodSandbox", { podSandboxId: pod });
      await cri.runtime.callUnary("removePodSandbox", { podSandboxId: pod });
    }
    await cri.runtime.callUnary("removeContainer", { containerId: created.id });
    await goesOn();
  });

  test("what CRIU cannot dump is told in its own words, and what finds no room in tar's", async () => {
    const device = { containerPath: "/dev/control", hostPath: "/dev/loop-control", permissions: "rw" };
    const command = ["sh", "-c", "exec sleep 1000 </dev/control"];
    const odd = await cri.start(podId, config, image, { command, devices: [device] });
    await assert.rejects(checkpoint(join(out, "odd.tar"), odd.id), {
      code: "RUNTIME",
      message: /checkpoint: criu failed.*: criu: .*(Can't dump file|chr|dev)/s,
    });
    assert.equal((await cri.exec(odd, "true")).exitCode, 0);
    await cri.runtime.callUnary("removeContainer", { containerId: odd.id });
    nothingIsLeft();

    const small = join(work, "small");
    mkdirSync(small);
    const mount = (...args: readonly string[]): void =>
      assert.equal(spawnSync(args[0] ?? "", args.slice(1)).status, 0);
    mount("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small);
    try {
      await assert.rejects(checkpoint(join(small, "x.tar")), /tar: .*(No space left|Wrote only)/);
      assert.deepEqual(readdirSync(small), []);
      writeFileSync(join(small, "filler"), Buffer.alloc(250 << 10));
      await assert.rejects(checkpoint(join(small, "x.tar")), {
        code: "LIMIT",
        message: /needs at least \d+ bytes; .*small has \d+/,
      });
      assert.deepEqual(readdirSync(small), ["filler"]);
    } finally {
      mount("umount", small);
    }
    nothingIsLeft();
    await goesOn();
  });

  test("an end of the time, of the caller and of the daemon leave nothing, and the container goes on", async () => {
    await stop();
    await start(slowCriu());
    const location = join(out, "late.tar");
    await assert.rejects(checkpoint(location, main.id, 1n), {
      code: "TIMEOUT",
      message: /no checkpoint after 1000 ms/,
    });
    nothingIsLeft();
    await goesOn();

    const begin = (options: { signal?: AbortSignal } = {}) => {
      const request = { containerId: main.id, location, timeout: 60n };
      const call = cri.runtime.callUnary("checkpointContainer", request, options);
      call.catch(() => {});
      return call;
    };

    const caller = new AbortController();
    const abandoned = begin({ signal: caller.signal });
    await helper();
    await assert.rejects(checkpoint(location), { code: "WRONG_STATE", message: /checkpointed already/ });
    caller.abort();
    await assert.rejects(abandoned);
    // Nobody is told when it is over: the next one may begin.
    for (let tries = 0; readdirSync(join(work, "root", "checkpoints")).length > 0 && tries < 200; tries++)
      await delay(50);
    nothingIsLeft();
    await goesOn();

    // The daemon alone: what does it hears of that, and lets go.
    begin();
    const orphan = await helper();
    await daemon.kill9();
    cri[Symbol.dispose]();
    for (let tries = 0; !hasEnded(String(orphan)) && tries < 200; tries++) await delay(50);
    assert.ok(hasEnded(String(orphan)));
    await start(criu);
    nothingIsLeft();
    await goesOn();

    // Both, in the middle: the next daemon lets the container go on.
    await stop();
    await start(slowCriu());
    begin();
    const killed = await helper();
    daemon.child.kill("SIGSTOP");
    process.kill(killed, "SIGKILL");
    await daemon.kill9();
    cri[Symbol.dispose]();
    await start(criu);
    nothingIsLeft();
    assert.throws(() => process.kill(-killed, 0), /ESRCH/, "the runtime and CRIU have ended");
    await goesOn();

    // The pod's end is not held up.
    await stop();
    await start(slowCriu());
    const metadata = { name: "doomed", namespace: "test", uid: "doomed", attempt: 0 };
    const other = cri.podConfig({ metadata });
    const doomedPod = await cri.runPod("runc", other);
    const doomed = await cri.start(doomedPod, other, image);
    const lost = cri.runtime.callUnary("checkpointContainer", { containerId: doomed.id, location });
    lost.catch(() => {});
    await helper(doomed.id);
    await cri.runtime.callUnary("stopContainer", { containerId: doomed.id, timeout: 0n });
    await cri.runtime.callUnary("stopPodSandbox", { podSandboxId: doomedPod });
    await cri.runtime.callUnary("removePodSandbox", { podSandboxId: doomedPod });
    await assert.rejects(lost, { code: "RUNTIME" });
    nothingIsLeft();
    await stop();
    await start(criu);
    const whole = join(out, "whole.tar");
    await checkpoint(whole);
    nothingIsLeft("whole.tar");
    rmSync(whole);
  });

  test("Status says which handlers can, and a setting or a host without CRIU that none can", async () => {
    const told = async () => {
      const { info } = await cri.runtime.callUnary("status", { verbose: true });
      const handlers: readonly { name: string; checkpoint: object }[] = JSON.parse(info["handlers"] ?? "[]");
      return Object.fromEntries(handlers.map(({ name, checkpoint: can }) => [name, JSON.stringify(can)]));
    };
    assert.match((await told())["runc"] ?? "", /"supported":true,"criu":"\d/);
    assert.match((await told())["firecracker"] ?? "", /"supported":false,"reason":"a guest has no CRIU"/);
    await stop();
    await start(criu, "enable_criu_support = false");
    assert.match((await told())["runc"] ?? "", /enable_criu_support is false/);
    await assert.rejects(checkpoint(join(out, "x.tar")), {
      code: "UNSUPPORTED",
      message: /enable_criu_support is false/,
    });
    await stop();
    // One that says why it cannot work here, as `criu check` does.
    const broken = join(work, "broken");
    mkdirSync(broken);
    const script =
      "#!/bin/sh\n[ $1 = --version ] && exec echo Version: 1.0\necho 'Error (x.c:1): no such kernel'; exit 1\n";
    writeFileSync(join(broken, "criu"), script, { mode: 0o755 });
    await start(broken);
    await assert.rejects(checkpoint(join(out, "x.tar")), {
      code: "UNSUPPORTED",
      message: /criu 1\.0 does not work on this kernel: `criu check` says Error \(x\.c:1\): no such kernel/,
    });
    nothingIsLeft();
  });

  test("nothing is left", async () => {
    await tearDown();
    isDown = true;
    assertNothingAdded(snapshot);
  });
});
