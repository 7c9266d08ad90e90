/**
 * An upgrade while pods run: another installation's daemon ends, its files are gone, and this one's goes on with its pods. UPGRADE_FROM
 * names a built checkout of an older version; without it, it is a copy of this one under another version.
 */
import assert from "node:assert/strict";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { ContainerState, PodSandboxState } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { type TestContainer, TestCri } from "./support/cri-client.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

const project = join(import.meta.dirname, "..");
const handlers = ["crun", "firecracker"] as const;
const lines = 500;

/** Another installation, under another version. */
function install(directory: string): void {
  const from = process.env["UPGRADE_FROM"] ?? project;
  for (const part of ["bin", "packages", "package.json"])
    cpSync(join(from, part), join(directory, part), { recursive: true, verbatimSymlinks: true });
  symlinkSync(join(from, "node_modules"), join(directory, "node_modules"));
  mkdirSync(join(directory, ".cache"));
  cpSync(join(from, ".cache/guest"), join(directory, ".cache/guest"), { recursive: true });
  const file = join(directory, "package.json");
  writeFileSync(file, readFileSync(file, "utf8").replace(/"version": ".*"/, '"version": "0.0.1"'));
}

type Kept = {
  readonly counts: TestContainer;
  readonly ends: TestContainer;
  readonly pod: ReturnType<TestCri["podConfig"]>;
  readonly shared: string;
};

describe("an upgrade", () => {
  const work = mkdtempSync("/tmp/tb-");
  const old = join(work, "old");
  const kept = new Map<string, Kept>();
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let image = "";
  let daemon: TestDaemon;
  let cri: TestCri;
  let pidsBefore: readonly string[] = [];

  const start = async (more: { readonly program?: string } = {}): Promise<void> => {
    daemon = await startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: cni.toml,
      ...more,
    });
    cri = new TestCri(daemon.socket, work);
  };
  const stop = async (): Promise<void> => {
    cri[Symbol.dispose]();
    await daemon.stop();
  };
  /** Pids and starts of the pods' own processes. */
  const ofPods = (): readonly string[] =>
    readdirSync("/proc").flatMap((pid) => {
      if (!/^\d+$/.test(pid)) return [];
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ");
        if (!command.includes(work) || command.includes("tinderboxd") || command.includes("docker-registry"))
          return [];
        const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
        return [`${pid} ${stat.slice(stat.lastIndexOf(")")).split(" ")[20]}`];
      } catch {
        return []; // It has ended meanwhile.
      }
    });
  const keptOn = (handler: string): Kept => {
    const found = kept.get(handler);
    assert.ok(found);
    return found;
  };
  const ended = async ({ id }: TestContainer): Promise<number> => {
    const limit = AbortSignal.timeout(60_000);
    for (;;) {
      const { status } = await cri.runtime.callUnary("containerStatus", { containerId: id });
      if (status?.state === ContainerState.CONTAINER_EXITED) return status.exitCode;
      await setTimeout(200, undefined, { signal: limit });
    }
  };

  before(async () => {
    snapshot = snapshotHost([]);
    install(old);
    registry = await startRegistry({ dir: join(work, "registry") });
    image = `${registry.host}/test/busybox:latest`;
    await pushBusyboxImage(registry.url, "test/busybox", "latest");
    cni = writeBridgeConf(join(work, "cni"));
    await start({ program: join(old, "bin/tinderboxd") });
    await cri.pull(image);
    for (const handler of handlers) {
      const pod = cri.podConfig();
      const podId = await cri.runPod(handler, pod);
      const shared = join(work, `shared-${handler}`);
      mkdirSync(shared);
      const mounts = [{ hostPath: shared, containerPath: "/shared" }];
      const count = `i=0; while [ $i -lt ${lines} ]; do i=$((i+1)); echo $i; usleep 10000; done; touch /shared/done; exec sleep 1000`;
      const counts = await cri.start(podId, pod, image, { command: ["sh", "-c", count], mounts });
      const ends = await cri.start(podId, pod, image, { command: ["sh", "-c", "sleep 2; echo bye; exit 7"] });
      kept.set(handler, { counts, ends, pod, shared });
    }
    const { runtimeVersion } = await cri.runtime.callUnary("version", {});
    await stop();
    pidsBefore = ofPods();
    rmSync(old, { recursive: true });
    // Something ends while there is no daemon.
    await setTimeout(3000);
    await start();
    assert.notEqual((await cri.runtime.callUnary("version", {})).runtimeVersion, runtimeVersion);
  });

  after(async () => {
    await cri.removePods();
    await stop();
    await registry.stop();
    cni.remove();
    rmSync(work, { recursive: true, force: true });
    assertNothingAdded(snapshot);
  });

  test("no process of a pod is another", () => {
    assert.ok(pidsBefore.length >= 4, pidsBefore.join(", "));
    const now = new Set(ofPods());
    assert.deepEqual(
      pidsBefore.filter((one) => !now.has(one)),
      [],
    );
  });

  for (const handler of handlers) {
    test(`${handler}: pod and containers are what they were, and an end in between is known`, async () => {
      const { counts, ends } = keptOn(handler);
      const pod = await cri.runtime.callUnary("podSandboxStatus", { podSandboxId: counts.podId });
      assert.equal(pod.status?.state, PodSandboxState.SANDBOX_READY);
      const { status } = await cri.runtime.callUnary("containerStatus", { containerId: counts.id });
      assert.equal(status?.state, ContainerState.CONTAINER_RUNNING);
      assert.equal(await ended(ends), 7);
      assert.match(readFileSync(ends.logPath, "utf8"), / stdout F bye\n$/);
    });

    test(`${handler}: no line of a log is lost or doubled`, async () => {
      const { counts, shared } = keptOn(handler);
      const limit = AbortSignal.timeout(60_000);
      while (!readdirSync(shared).includes("done")) await setTimeout(100, undefined, { signal: limit });
      const wanted = Array.from({ length: lines }, (_, n) => `${n + 1}`);
      const written = (): readonly string[] =>
        readFileSync(counts.logPath, "utf8")
          .trimEnd()
          .split("\n")
          .map((line) => line.replace(/^\S+ stdout F /, ""));
      while (written().length < lines) await setTimeout(100, undefined, { signal: limit });
      assert.deepEqual(written(), wanted);
    });

    test(`${handler}: what runs is executed in, counted, changed and stopped, and its volume is live`, async () => {
      const { counts, shared } = keptOn(handler);
      writeFileSync(join(shared, "new"), "from the host");
      assert.equal(await cri.output(counts, "cat", "/shared/new"), "from the host");
      const { stats } = await cri.runtime.callUnary("containerStats", { containerId: counts.id });
      assert.ok((stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
      await cri.runtime.callUnary("updateContainerResources", {
        containerId: counts.id,
        linux: { memoryLimitInBytes: 64n << 20n },
      });
      await cri.runtime.callUnary("stopContainer", { containerId: counts.id, timeout: 1n });
      assert.equal(await ended(counts), 137);
    });

    test(`${handler}: a pod of before takes containers of now`, async () => {
      const { counts, pod, shared } = keptOn(handler);
      const more = await cri.start(counts.podId, pod, image, {
        command: ["sh", "-c", "cat /shared/new; exit 3"],
        mounts: [{ hostPath: shared, containerPath: "/shared" }],
      });
      assert.equal(await ended(more), 3);
      assert.match(readFileSync(more.logPath, "utf8"), / stdout \S from the host\n$/);
    });
  }
});
