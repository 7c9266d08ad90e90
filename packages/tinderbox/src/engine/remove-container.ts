/** StopContainer and RemoveContainer. */
import { TinderboxError } from "../base/errors.ts";
import type { Container } from "./contract.ts";
import type { ContainerEntry, EngineState } from "./engine-state.ts";
import { signalNumber } from "./signal-number.ts";

/** After SIGKILL, only a process stuck in the kernel takes longer. */
const killWaitMs = 30_000;
/** After a call to a sandbox has failed, how long until it is known that the sandbox is no more. */
const goneNewsMs = 2_000;
const maxTimerMs = 0x7fff_ffff;

async function signal(state: EngineState, entry: ContainerEntry, number: number): Promise<void> {
  const { id, podId } = entry.stored.container;
  const sandbox = state.pods.get(podId)?.sandbox;
  if (!sandbox) throw new TinderboxError("WRONG_STATE", `pod ${podId} of container ${id} has no sandbox`);
  try {
    await sandbox.signalContainer(id, number, number === 9);
  } catch (cause) {
    // It may have ended by itself meanwhile; its state says so.
    state.applyState(await sandbox.containerState(id));
    if (!hasExited(entry)) throw cause;
  }
}

/** Waits for the exit until `killAt`, which may come nearer; true when it came. */
async function waitUntilKill(state: EngineState, entry: ContainerEntry): Promise<boolean> {
  const giveUp = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const arm = (): void => {
    clearTimeout(timer);
    const left = Math.max(0, (entry.stop?.killAt ?? 0) - performance.now());
    timer = setTimeout(() => giveUp.abort(), Math.min(left, maxTimerMs));
  };
  if (entry.stop) entry.stop.shorten = arm;
  arm();
  try {
    await state.exited(entry, giveUp.signal);
    return true;
  } catch (cause) {
    if (giveUp.signal.aborted) return false;
    throw cause;
  } finally {
    clearTimeout(timer);
  }
}

async function stop(state: EngineState, entry: ContainerEntry): Promise<void> {
  const { id, phase, stopSignal } = entry.stored.container;
  if (phase.kind === "running" && entry.stop && entry.stop.killAt > performance.now()) {
    await signal(state, entry, signalNumber(stopSignal));
    if (await waitUntilKill(state, entry)) return;
  }
  await signal(state, entry, 9);
  await state.exited(entry, AbortSignal.timeout(killWaitMs)).catch((cause) => {
    throw new TinderboxError(
      "TIMEOUT",
      `container ${id} has not ended ${killWaitMs / 1000} s after SIGKILL`,
      { cause },
    );
  });
}

function hasExited(entry: ContainerEntry): boolean {
  return entry.stored.container.phase.kind === "exited";
}

/** Ends a container; a later call may only bring the kill forward. */
export async function stopContainer(
  state: EngineState,
  entry: ContainerEntry,
  timeoutMs: number,
): Promise<void> {
  if (hasExited(entry)) return;
  const killAt = performance.now() + Math.max(0, timeoutMs);
  if (entry.stop) {
    if (killAt < entry.stop.killAt) {
      entry.stop.killAt = killAt;
      entry.stop.shorten(killAt);
    }
    return entry.stop.done;
  }
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  entry.stop = { killAt, shorten: () => {}, done: promise };
  promise.catch(() => {});
  try {
    await stop(state, entry).catch(async (cause: unknown) => {
      // Its pod may be gone meanwhile, stopped by another call or killed: the news of that ends the container, too.
      await state.exited(entry, AbortSignal.timeout(goneNewsMs)).catch(() => Promise.reject(cause));
    });
    resolve();
  } catch (cause) {
    reject(cause);
    throw cause;
  } finally {
    entry.stop = undefined;
  }
}

/** The container does not need its image and those of its volumes any more. */
export async function releaseImages(state: EngineState, container: Container): Promise<void> {
  const { id, imageId, volumeImageIds } = container;
  for (const one of new Set([imageId, ...Object.values(volumeImageIds)]))
    await state.parts.images.release(one, id);
}

/** Kills what runs, gives back what it holds, forgets it. */
export function removeContainer(state: EngineState, entry: ContainerEntry): Promise<void> {
  const { id, podId } = entry.stored.container;
  return state.once(`remove-container ${id}`, async () => {
    if (!state.containers.has(id)) return;
    await state.settled(`start-container ${id}`);
    state.saveContainer(entry, {}, "removing");
    const pod = state.pods.get(podId);
    if (pod?.sandbox && pod.stored.stage === "ready") {
      if (entry.stored.container.phase.kind === "running") await stopContainer(state, entry, 0);
      await pod.sandbox.deleteContainer(id).catch((cause: unknown) => {
        // Its pod is being stopped meanwhile, by another call or its own end: what it had goes with the sandbox.
        if (pod.stored.stage === "ready") throw cause;
      });
    }
    await releaseImages(state, entry.stored.container);
    state.store.deleteContainer(id);
    state.containers.delete(id);
    state.emit("deleted", id, podId);
  });
}
