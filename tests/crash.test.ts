/**
 * Killed parts: the daemon, the VMM, the agent and the OCI runtime, each while a pod is created, runs and is removed. Then the
 * daemon tells the truth and nothing is left. No log line is lost or doubled, however often the daemon dies.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, watch, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { ContainerEventType, RuntimeService } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { createGrpcClient } from "../packages/tinderbox/src/rpc/grpc-client.ts";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { crictl, crictlPath } from "./support/crictl.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { processesLike } from "./support/process-tree.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

const pidsOf = (pattern: RegExp): readonly number[] => processesLike(pattern).map(({ pid }) => pid);

describe("killed parts", () => {
  const work = mkdtempSync("/tmp/tb-");
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let image = "";
  let isDown = false;
  let serial = 0;

  const start = (): Promise<TestDaemon> =>
    startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: cni.toml,
    });
  const ok = (...args: string[]): string => {
    const result = crictl(daemon.socket, ...args);
    assert.equal(result.code, 0, `crictl ${args.join(" ")}: ${result.stderr}\n${daemon.said().slice(-3000)}`);
    return result.stdout.trim();
  };
  /** crictl that runs on while the test goes on; the output when it has ended. */
  const begin = (
    ...args: string[]
  ): { child: ChildProcess; ended: Promise<{ code: number | null; out: string }> } => {
    const endpoint = `unix://${daemon.socket}`;
    const child = spawn(
      crictlPath,
      ["--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "120s", ...args],
      { stdio: ["ignore", "pipe", "ignore"] },
    );
    let out = "";
    child.stdout.on("data", (chunk: Buffer) => {
      out += chunk.toString("utf8");
    });
    return { child, ended: once(child, "close").then(([code]) => ({ code, out: out.trim() })) };
  };
  const configs = (script: string): { name: string; pod: string; container: string; log: string } => {
    serial += 1;
    const name = `crash-${serial}`;
    const [pod, container] = [join(work, `${name}-pod.json`), join(work, `${name}.json`)];
    const metadata = { name, namespace: "test", uid: name, attempt: 1 };
    const linux = { security_context: { namespace_options: { pid: 1 } } };
    writeFileSync(pod, JSON.stringify({ metadata, log_directory: join(work, "logs", name), linux }));
    writeFileSync(
      container,
      JSON.stringify({
        metadata: { name, attempt: 1 },
        image: { image },
        command: ["sh", "-c", script],
        log_path: "out.log",
        linux,
      }),
    );
    return { name, pod, container, log: join(work, "logs", name, "out.log") };
  };
  const runPod = (handler: string, script: string): { podId: string; id: string; log: string } => {
    const { pod, container, log } = configs(script);
    const podId = ok("runp", "--runtime", handler, pod);
    const id = ok("create", podId, container, pod);
    ok("start", id);
    return { podId, id, log };
  };
  const removeAll = (): void => {
    if (JSON.parse(ok("pods", "-o", "json")).items.length > 0) ok("rmp", "--all", "--force");
    assert.deepEqual(JSON.parse(ok("pods", "-o", "json")).items, []);
    assert.deepEqual(JSON.parse(ok("ps", "-a", "-o", "json")).containers, []);
  };
  /** Resolves at the next stop of a container, which `act` brings about. */
  const stoppedAfter = async (id: string, act: () => void): Promise<void> => {
    const client = createGrpcClient(RuntimeService, `unix://${daemon.socket}`);
    const over = AbortSignal.timeout(60_000);
    try {
      const events = client.callStream("getContainerEvents", {}, { signal: over });
      const first = (async () => {
        for await (const event of events)
          if (
            event.containerId === id &&
            event.containerEventType === ContainerEventType.CONTAINER_STOPPED_EVENT
          )
            return;
      })();
      // An answer on the same connection: the subscription is in place.
      await client.callUnary("version", {});
      act();
      await first;
    } finally {
      client.close();
    }
  };

  before(async () => {
    snapshot = snapshotHost([]);
    registry = await startRegistry({ dir: join(work, "registry") });
    image = `${registry.host}/test/busybox:latest`;
    await pushBusyboxImage(registry.url, "test/busybox", "latest");
    cni = writeBridgeConf(join(work, "cni"));
    daemon = await start();
    ok("pull", image);
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

  // Moments all over a start and an end: whichever step they meet, the next daemon has to cope. ms.
  const moments = {
    crun: { create: [0, 15, 30, 45, 60, 80, 110], remove: [0, 10, 25, 50] },
    firecracker: { create: [0, 40, 100, 250, 700, 1900, 2300], remove: [0, 20, 60, 120] },
  };
  for (const handler of ["crun", "firecracker"] as const) {
    test(`${handler}: the daemon is killed while pods are created`, async () => {
      for (const moment of moments[handler].create) {
        const { pod, container } = configs("sleep 600");
        const creating = begin("run", "--runtime", handler, "--no-pull", container, pod);
        await delay(moment);
        await daemon.kill9();
        creating.child.kill("SIGKILL");
        await creating.ended;
        daemon = await start();
        for (const { state } of JSON.parse(ok("pods", "-o", "json")).items)
          assert.match(state, /^SANDBOX_(READY|NOTREADY)$/);
        removeAll();
      }
    });

    test(`${handler}: the daemon is killed while pods are removed`, async () => {
      for (const moment of moments[handler].remove) {
        const { podId } = runPod(handler, "sleep 600");
        const removing = begin("rmp", "--force", podId);
        await delay(moment);
        await daemon.kill9();
        removing.child.kill("SIGKILL");
        await removing.ended;
        daemon = await start();
        removeAll();
      }
    });
  }

  const victims = [
    { handler: "crun", what: "the agent", pattern: () => new RegExp(`agent --socket ${work}`) },
    { handler: "firecracker", what: "the VMM", pattern: () => new RegExp(`firecracker-qemu.*${work}`) },
    { handler: "firecracker", what: "QEMU", pattern: () => new RegExp(`^qemu-system.*${work}`) },
    {
      handler: "firecracker",
      what: "the process of its devices",
      pattern: () => new RegExp(`microvm-devices.*${work}`),
    },
  ];
  for (const { handler, what, pattern } of victims) {
    test(`${handler}: ${what} is killed while a pod runs: it is not ready, its container has exited, at once`, async () => {
      const { podId, id } = runPod(handler, "sleep 600");
      const pids = pidsOf(pattern());
      assert.ok(pids.length > 0, `no process of ${what}`);
      await stoppedAfter(id, () => {
        for (const pid of pids) process.kill(pid, "SIGKILL");
      });
      assert.equal(JSON.parse(ok("inspect", id)).status.state, "CONTAINER_EXITED");
      assert.equal(JSON.parse(ok("inspectp", podId)).status.state, "SANDBOX_NOTREADY");
      removeAll();
    });

    test(`${handler}: ${what} is killed while a pod is created and while it is removed`, async () => {
      const { pod, container } = configs("sleep 600");
      const creating = begin("run", "--runtime", handler, "--no-pull", container, pod);
      // As soon as it is there.
      const limit = AbortSignal.timeout(30_000);
      while (pidsOf(pattern()).length === 0) await delay(2, undefined, { signal: limit });
      for (const pid of pidsOf(pattern())) process.kill(pid, "SIGKILL");
      const { code } = await creating.ended;
      assert.notEqual(code, 0);
      removeAll();
      const { podId } = runPod(handler, "sleep 600");
      const removing = begin("rmp", "--force", podId);
      for (const pid of pidsOf(pattern())) process.kill(pid, "SIGKILL");
      await removing.ended;
      removeAll();
    });
  }

  test("crun: the runtime is killed while it creates: the container does not come, and can be made again", async () => {
    const { pod, container } = configs("sleep 600");
    const podId = ok("runp", "--runtime", "crun", pod);
    const limit = AbortSignal.timeout(30_000);
    for (let killed = false; !killed; ) {
      limit.throwIfAborted();
      const creating = begin("create", "--no-pull", podId, container, pod);
      while (creating.child.exitCode === null && !killed) {
        for (const pid of pidsOf(/^\S*crun .*create/)) {
          process.kill(pid, "SIGKILL");
          killed = true;
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
      const { code, out } = await creating.ended;
      if (code === 0) ok("rm", "--force", out);
    }
    const id = ok("create", podId, container, pod);
    ok("start", id);
    ok("stop", id);
    removeAll();
  });

  test("ten microVMs at once", async () => {
    const pods = Array.from({ length: 10 }, (_, n) => ({ n, ...configs(`echo I am ${n}`) }));
    await Promise.all(
      pods.map(async ({ n, pod, container, log }) => {
        const { code, out } = await begin("run", "--runtime", "firecracker", "--no-pull", container, pod)
          .ended;
        assert.equal(code, 0, daemon.said().slice(-3000));
        if (!existsSync(log) || statSync(log).size === 0)
          for await (const _ of watchOnce(log)) if (existsSync(log) && statSync(log).size > 0) break;
        assert.match(readFileSync(log, "utf8"), new RegExp(` stdout F I am ${n}\n$`), out);
      }),
    );
    assert.equal(JSON.parse(ok("pods", "--state", "ready", "-o", "json")).items.length, 10);
    removeAll();
  });

  for (const handler of ["crun", "firecracker"]) {
    test(`${handler}: 100,000 lines on each stream while the daemon is killed three times: each once, in order`, async () => {
      const [chunks, each] = [100, 1000];
      const script = `i=0; while [ $i -lt ${chunks} ]; do f=$((i*${each}+1)); t=$((f+${each - 1})); seq $f $t; seq $f $t >&2; i=$((i+1)); usleep 20000; done`;
      const { id, log } = runPod(handler, script);
      // Each line has 30 to 60 bytes; the kills are at about a fifth, two and three fifths.
      const whole = 2 * chunks * each * 46;
      for (const part of [0.2, 0.4, 0.6]) {
        for await (const _ of watchOnce(log)) {
          const size = existsSync(log) ? statSync(log).size : 0;
          if (size > whole * part) break;
          if (JSON.parse(ok("inspect", id)).status.state === "CONTAINER_EXITED") break;
        }
        await daemon.kill9();
        daemon = await start();
      }
      if (JSON.parse(ok("inspect", id)).status.state !== "CONTAINER_EXITED")
        await stoppedAfter(id, () => {}).catch(() => {});
      const status = JSON.parse(ok("inspect", id)).status;
      assert.deepEqual([status.state, status.exitCode], ["CONTAINER_EXITED", 0]);
      const numbers = { stdout: [] as number[], stderr: [] as number[] };
      for (const line of readFileSync(log, "utf8").trimEnd().split("\n")) {
        const [, , stream, text] = /^(\S+) (stdout|stderr) F (\d+)$/.exec(line) ?? [];
        assert.ok(
          stream === "stdout" || stream === "stderr",
          `not a whole log line: ${JSON.stringify(line)}`,
        );
        numbers[stream].push(Number(text));
      }
      const wanted = Array.from({ length: chunks * each }, (_, n) => n + 1);
      assert.deepEqual(numbers.stdout, wanted);
      assert.deepEqual(numbers.stderr, wanted);
      removeAll();
    });
  }

  test("nothing is left on the host", async () => {
    await tearDown();
    assertNothingAdded(snapshot);
  });
});

/** Wakes whenever something in the file's directory changes, and once at the beginning. */
async function* watchOnce(file: string): AsyncGenerator<void> {
  const directory = dirname(file);
  let wake = (): void => {};
  let pending = true;
  const note = (): void => {
    pending = true;
    wake();
  };
  const watcher = watch(existsSync(directory) ? directory : dirname(directory), note);
  const limit = AbortSignal.timeout(120_000);
  limit.addEventListener("abort", note);
  try {
    for (;;) {
      if (!pending)
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      limit.throwIfAborted();
      pending = false;
      yield;
    }
  } finally {
    watcher.close();
  }
}
