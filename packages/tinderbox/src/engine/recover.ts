/** What the daemon does at its start: every row of the store is held against what is really there. */
import { readFileSync } from "node:fs";
import { TinderboxError } from "../base/errors.ts";
import type { Image } from "../image/contract.ts";
import type { Sandbox } from "../sandbox/contract.ts";
import type { ContainerEntry, EngineState, PodEntry } from "./engine-state.ts";
import { releaseImages } from "./remove-container.ts";
import { cleanPod } from "./run-pod.ts";
import { removePod, stopPod } from "./stop-pod.ts";

function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

function load(state: EngineState): void {
  for (const stored of state.store.pods()) state.pods.set(stored.pod.id, { stored, sandbox: undefined });
  for (const stored of state.store.containers()) {
    const entry: ContainerEntry = { stored, wasOomKilled: false, stop: undefined };
    if (state.pods.has(stored.container.podId)) state.containers.set(stored.container.id, entry);
    // Of a pod that never became ready, or is gone: nothing of it is left.
    else state.store.deleteContainer(stored.container.id);
  }
}

async function dropContainer(state: EngineState, entry: ContainerEntry, sandbox: Sandbox): Promise<void> {
  const { id } = entry.stored.container;
  await sandbox.deleteContainer(id);
  await releaseImages(state, entry.stored.container);
  state.store.deleteContainer(id);
  state.containers.delete(id);
}

async function takeUp(state: EngineState, entry: PodEntry, sandbox: Sandbox): Promise<void> {
  const { id } = entry.stored.pod;
  const found = new Map((await sandbox.listContainers()).map((one) => [one.id, one]));
  for (const container of state.containersOf(id)) {
    const actual = found.get(container.stored.container.id);
    if (container.stored.stage !== "made") await dropContainer(state, container, sandbox);
    else if (actual) state.applyState(actual);
    else state.setLost(container, "Unknown", "it was not in its sandbox any more when the daemon started");
  }
  for (const one of found.values()) if (!state.containers.has(one.id)) await sandbox.deleteContainer(one.id);
  state.follow(entry, sandbox);
  void checkNetwork(state, entry);
}

/** Says what of a pod's network has gone while nobody looked; the pod is its owner's to replace. */
async function checkNetwork(state: EngineState, entry: PodEntry): Promise<void> {
  const { id, config } = entry.stored.pod;
  if (config.namespaces.network !== "pod") return;
  await state.parts.network.check(id).catch((cause) =>
    // Not a warning: portmap before 1.2 misses IPv6 rules that it never made.
    state.parts.logger.info("a pod's network is not as it was made", {
      pod: id,
      cause: TinderboxError.from(cause).message,
    }),
  );
}

async function recoverReady(state: EngineState, entry: PodEntry, isSameBoot: boolean): Promise<void> {
  const { record, pod } = entry.stored;
  const images = new Map<string, Image>();
  for (const { stored } of state.containersOf(pod.id)) {
    const image = state.parts.images.get(stored.container.imageId);
    if (image) images.set(stored.container.id, image);
  }
  const factory = record && state.parts.factories.get(record.handler);
  const sandbox = isSameBoot && record && factory ? await factory.recover(record, images) : undefined;
  if (sandbox) {
    try {
      return await takeUp(state, entry, sandbox);
    } catch (cause) {
      state.parts.logger.warn("a recovered sandbox does not answer as it should", {
        pod: pod.id,
        cause: TinderboxError.from(cause).message,
      });
      entry.sandbox = sandbox;
    }
  }
  const reason = isSameBoot ? "SandboxGone" : "Rebooted";
  for (const one of state.containersOf(pod.id))
    state.setLost(one, reason, "it ended while the daemon was not running");
  await stopPod(state, entry);
}

async function recoverPod(state: EngineState, entry: PodEntry, isSameBoot: boolean): Promise<void> {
  const { stage, pod } = entry.stored;
  switch (stage) {
    case "starting":
      // Nobody was ever told its id.
      await cleanPod(state, entry);
      state.store.deletePod(pod.id);
      state.pods.delete(pod.id);
      return;
    case "removing":
      return removePod(state, entry);
    case "stopping":
      return stopPod(state, entry);
    case "ready":
      return recoverReady(state, entry, isSameBoot);
    case "notready":
  }
}

/** Containers that have no sandbox to be deleted in, but whose removal was under way. */
async function finishRemovals(state: EngineState): Promise<void> {
  for (const entry of [...state.containers.values()]) {
    const { stage, container } = entry.stored;
    if (stage === "made" || state.pods.get(container.podId)?.sandbox) continue;
    await releaseImages(state, container);
    state.store.deleteContainer(container.id);
    state.containers.delete(container.id);
  }
}

/** Brings memory, store and machine into step. One pod's trouble is logged and keeps none of the others. */
export async function recover(state: EngineState): Promise<void> {
  const { logger, network, images } = state.parts;
  const bootId = readBootId();
  const isSameBoot = state.store.meta("boot_id") === bootId;
  load(state);
  await Promise.all(
    [...state.pods.values()].map(async (entry) => {
      try {
        await recoverPod(state, entry, isSameBoot);
      } catch (cause) {
        const { id } = entry.stored.pod;
        logger.error("recovering a pod", { pod: id, cause: TinderboxError.from(cause).message });
        for (const one of state.containersOf(id))
          state.setLost(one, "Unknown", "its sandbox could not be recovered");
        if (entry.stored.pod.state === "ready") state.setPodState(entry, "notready", { stage: "stopping" });
      }
    }),
  );
  await finishRemovals(state);
  for (const id of await network.known()) {
    if (state.pods.has(id)) continue;
    await network.tearDown(id).catch((cause) =>
      logger.error("tearing down the network of an unknown pod", {
        pod: id,
        cause: TinderboxError.from(cause).message,
      }),
    );
  }
  // Not waited for: a plugin may be slow, and only new pods need it to be over.
  void network.collectGarbage();
  await images.reconcileHolders(new Set(state.containers.keys()));
  state.store.setMeta("boot_id", bootId);
}
