/** StopPodSandbox and RemovePodSandbox: both may come at any time and any number of times. */
import { rm } from "node:fs/promises";
import { TinderboxError } from "../base/errors.ts";
import type { EngineState, PodEntry } from "./engine-state.ts";
import { removeContainer } from "./remove-container.ts";
import { cleanPod, logDirectoryOf } from "./run-pod.ts";

const killWaitMs = 10_000;

/** Ends everything of a pod but its record and those of its containers. */
export function stopPod(state: EngineState, entry: PodEntry): Promise<void> {
  const { id } = entry.stored.pod;
  return state.once(`stop-pod ${id}`, async () => {
    if (entry.stored.stage === "notready") return;
    if (entry.stored.stage !== "removing") state.savePod(entry, { stage: "stopping" });
    const { sandbox } = entry;
    const containers = state.containersOf(id);
    await Promise.all(
      containers.map(async (one) => {
        if (!sandbox || one.stored.container.phase.kind !== "running") return;
        // Killed one by one first: each then has an exit code of its own, and its last output in the log.
        await sandbox.signalContainer(one.stored.container.id, 9, true).catch(() => {});
        await state.exited(one, AbortSignal.timeout(killWaitMs)).catch(() => {});
      }),
    );
    await cleanPod(state, entry);
    for (const one of state.containersOf(id)) state.setLost(one, "SandboxStopped", "its pod was stopped");
    state.setPodState(entry, "notready", {
      record: undefined,
      stage: entry.stored.stage === "removing" ? "removing" : "notready",
    });
  });
}

/** Stops it, removes its containers, forgets it. */
export function removePod(state: EngineState, entry: PodEntry): Promise<void> {
  const { id, config } = entry.stored.pod;
  return state.once(`remove-pod ${id}`, async () => {
    if (!state.pods.has(id)) return;
    await stopPod(state, entry);
    state.savePod(entry, { stage: "removing" });
    const results = await Promise.allSettled(
      state.containersOf(id).map((one) => removeContainer(state, one)),
    );
    const failed = results.find((one) => one.status === "rejected");
    if (failed) throw TinderboxError.from(failed.reason);
    if (config.logDirectory === "")
      await rm(logDirectoryOf(state, config, id), { recursive: true, force: true });
    state.store.deletePod(id);
    state.pods.delete(id);
    state.emit("deleted", id, id);
  });
}
