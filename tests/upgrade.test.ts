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
import { type TestContainer, TestCri } from "./support/cri-client.ts";
import { type CriStage, startCriStage, stopCriStage } from "./support/cri-stage.ts";
import { startDaemon } from "./support/daemon.ts";
import { eventually } from "./support/kubelet.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { isAlive, type Process, processesLike } from "./support/process-tree.ts";

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
  let stage: CriStage;
  let image = "";
  let cri: TestCri;
  let ofOldPods: readonly Process[] = [];

  const keptOn = (handler: string): Kept => {
    const found = kept.get(handler);
    assert.ok(found);
    return found;
  };
  const ended = (container: TestContainer): Promise<number> =>
    eventually("the container has ended", 60, async () => {
      const exitCode = await cri.exitCode(container);
      assert.ok(exitCode !== undefined);
      return exitCode;
    });

  before(async () => {
    snapshot = snapshotHost([]);
    install(old);
    stage = await startCriStage(work, { program: join(old, "bin/tinderboxd") });
    ({ image, cri } = stage);
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
    cri[Symbol.dispose]();
    await stage.daemon.stop();
    ofOldPods = processesLike(new RegExp(work)).filter(({ command }) => !command.includes("docker-registry"));
    rmSync(old, { recursive: true });
    // Something ends while there is no daemon.
    await setTimeout(3000);
    const daemon = await startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: stage.cni.toml,
    });
    cri = new TestCri(daemon.socket, work);
    stage = { ...stage, daemon, cri };
    assert.notEqual((await cri.runtime.callUnary("version", {})).runtimeVersion, runtimeVersion);
  });

  after(async () => {
    await stopCriStage(work, stage);
    assertNothingAdded(snapshot);
  });

  test("no process of a pod is another", () => {
    assert.ok(ofOldPods.length >= 4, ofOldPods.map(({ command }) => command).join("\n"));
    assert.deepEqual(
      ofOldPods.filter((one) => !isAlive(one)),
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
      await eventually("all is written", 60, () => assert.ok(readdirSync(shared).includes("done")));
      const wanted = Array.from({ length: lines }, (_, n) => `${n + 1}`);
      const written = (): readonly string[] =>
        readFileSync(counts.logPath, "utf8")
          .trimEnd()
          .split("\n")
          .map((line) => line.replace(/^\S+ stdout F /, ""));
      await eventually("all is in the log", 60, () => assert.ok(written().length >= lines));
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
