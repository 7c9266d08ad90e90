/** `tinderbox` as a person uses it, against a daemon and without one: run, logs, exec, exit statuses, Ctrl-C. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

const program = join(import.meta.dirname, "../bin/tinderbox");

describe("tinderbox", () => {
  const work = mkdtempSync("/tmp/tb-");
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let image = "";
  let isDown = false;

  const tinderbox = (
    args: readonly string[],
    input = "",
  ): { code: number | null; out: string; err: string } => {
    const result = spawnSync(program, ["--socket", daemon.socket, ...args], {
      encoding: "utf8",
      input,
      timeout: 60_000,
      env: { ...process.env, XDG_DATA_HOME: join(work, "data") },
    });
    return { code: result.status, out: result.stdout, err: result.stderr };
  };

  before(async () => {
    snapshot = snapshotHost([]);
    registry = await startRegistry({ dir: join(work, "registry") });
    image = `${registry.host}/test/busybox:latest`;
    await pushBusyboxImage(registry.url, "test/busybox", "latest");
    cni = writeBridgeConf(join(work, "cni"));
    daemon = await startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: cni.toml,
    });
  });

  const tearDown = async (): Promise<void> => {
    isDown = true;
    await daemon.stop();
    await registry.stop();
    cni.remove();
    rmSync(work, { recursive: true, force: true });
  };
  after(async () => {
    if (!isDown) await tearDown();
  });

  for (const handler of ["crun", "firecracker"]) {
    test(`run --runtime ${handler}: both streams, standard input and the exit status are passed on`, () => {
      const script = "cat; echo out; echo err >&2; exit 7";
      const args = ["run", "-q", "-i", "--runtime", handler, image, "--", "sh", "-c", script];
      assert.deepEqual(tinderbox(args, "typed\n"), { code: 7, out: "typed\nout\n", err: "err\n" });
    });
  }

  test("run: environment, working directory and user are the container's", () => {
    const flags = ["-e", "A=b c", "-w", "/tmp", "-u", "12:34"];
    const result = tinderbox([
      "run",
      "-q",
      ...flags,
      image,
      "--",
      "sh",
      "-c",
      'echo "$A" $PWD $(id -u):$(id -g)',
    ]);
    assert.deepEqual(result, { code: 0, out: "b c /tmp 12:34\n", err: "" });
  });

  test("run: a large output is whole", () => {
    const { out } = tinderbox(["run", "-q", image, "--", "sh", "-c", "seq 1 20000 || true"]);
    const lines = out.trimEnd().split("\n");
    assert.deepEqual([lines.length, lines.at(-1)], [20_000, "20000"]);
  });

  test("run -d, ps, logs, exec, inspect, rm", () => {
    const script = "echo first; echo second; exec sleep 600";
    assert.equal(tinderbox(["run", "-d", "--name", "web", image, "--", "sh", "-c", script]).out, "web\n");
    assert.match(tinderbox(["ps"]).out, /web/);
    const exec = tinderbox(["exec", "-i", "web", "--", "sh", "-c", "cat; exit 4"], "sent\n");
    assert.deepEqual(exec, { code: 4, out: "sent\n", err: "" });
    assert.equal(tinderbox(["logs", "--tail", "1", "web"]).out, "second\n");
    assert.equal(JSON.parse(tinderbox(["inspect", "web"]).out).status.metadata.name, "web");
    assert.equal(tinderbox(["rm", "web"]).code, 0);
    assert.deepEqual(JSON.parse(tinderbox(["--json", "pods"]).out), []);
  });

  test("what cannot be done is said, with the right status", () => {
    const cases: readonly (readonly [readonly string[], number, RegExp])[] = [
      [["run", "--runtime", "nope", image, "--", "true"], 2, /nope/],
      [["run", image, "--", "no-such-program"], 1, /no-such-program/],
      [["run", "-e", "", image, "--", "true"], 2, /--env/],
      [["run", "--pull", "sometimes", image], 2, /--pull sometimes/],
      [["run", "--pull", "never", `${registry.host}/test/other`, "--", "true"], 1, /not on this node/],
      [["logs", "nope"], 1, /nope/],
      [["completion", "powershell"], 2, /bash, zsh or fish/],
      [["frobnicate"], 2, /unknown command/],
    ];
    for (const [args, code, message] of cases) {
      const result = tinderbox(args);
      assert.match(result.err, message);
      assert.equal(result.code, code, args.join(" "));
    }
    assert.deepEqual(JSON.parse(tinderbox(["--json", "pods"]).out), []);
  });

  test("Ctrl-C ends the container and removes its pod", async () => {
    const child: ChildProcess = spawn(
      program,
      ["--socket", daemon.socket, "run", "-q", image, "--", "sh", "-c", "echo up; sleep 600"],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    assert.ok(child.stdout);
    await once(child.stdout, "data");
    child.kill("SIGINT");
    const [code] = await once(child, "exit");
    assert.equal(code, 130);
    assert.deepEqual(JSON.parse(tinderbox(["--json", "pods"]).out), []);
  });

  test("run without a daemon brings its own, and nothing of it stays", async () => {
    const result = spawnSync(
      program,
      ["--socket", join(work, "none.sock"), "run", image, "--", "hostname", "-i"],
      {
        encoding: "utf8",
        timeout: 60_000,
        env: { ...process.env, XDG_DATA_HOME: join(work, "data") },
      },
    );
    assert.match(result.stderr, /starting one for this command/);
    assert.match(result.stdout, /^10\./);
    assert.equal(result.status, 0);
    await tearDown();
    assertNothingAdded(snapshot);
  });
});
