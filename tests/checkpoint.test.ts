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
import { diffSnapshots, formatDiff, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

/** Any other CRIU may be tried: `CRIU_BIN=/usr/sbin node --test tests/checkpoint.test.ts`. */
const criu = process.env["CRIU_BIN"] ?? join(import.meta.dirname, "../.cache/criu/bin");
const skip = existsSync(join(criu, "criu")) ? false : "tools/setup.sh criu has none for this machine";

/** Counts in its memory alone, and says where it is in a file. */
const counter = [
  "sh",
  "-c",
  "rm /etc/group; echo new >/etc/new; mkdir -p /data; ln -s /etc/shadow /data/link; " +
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
      configToml: `${more}\n[cni]\nconf_dir = ${JSON.stringify(cni.confDir)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
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
    assert.deepEqual(readdirSync(join(work, "root", "checkpoints")), []);
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
  const isDown = false;
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
    assert.deepEqual(json("deleted.files"), ["/etc/group"]);
    const diff = spawnSync("tar", ["-tvf", join(unpacked, "rootfs-diff.tar")], { encoding: "utf8" }).stdout;
    // CRIU itself makes something in /tmp and takes it away.
    const names = diff.split("\n").flatMap((line) => /\d\d:\d\d (\S+)/.exec(line)?.[1] ?? []);
    assert.deepEqual(
      names.filter((name) => name !== "tmp/"),
      ["data/", "data/link", "data/n", "etc/", "etc/new"],
      diff,
    );
    const { stdout } = spawnSync("tar", ["-xOf", join(unpacked, "rootfs-diff.tar"), "data/n"], {
      encoding: "utf8",
    });
    assert.ok(Number(stdout) >= earlier, `${stdout} after ${earlier}`);
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
    spec.linux.cgroupsPath = "/tinderbox-test/restored";
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
});
