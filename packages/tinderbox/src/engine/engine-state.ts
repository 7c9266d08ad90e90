/** What the engine knows at this moment, kept in step with the store, and whoever waits for it to change. */
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { CdiRegistry } from "../cdi/cdi-registry.ts";
import type { RuntimeConfig } from "../daemon/config.ts";
import type { ImageService } from "../image/contract.ts";
import type { NetworkService } from "../network/contract.ts";
import { type ContainerState, ContainerState_Status } from "../rpc/gen/tinderbox/agent/v1/agent_pb.ts";
import type { Sandbox, SandboxEvent, SandboxFactory } from "../sandbox/contract.ts";
import type { DefaultProfile } from "./app-armor.ts";
import type { Container, ContainerPhase, EngineEvent, Pod } from "./contract.ts";
import { byIdPrefix } from "./id-index.ts";
import type { Store, StoredContainer, StoredPod } from "./store.ts";

export type EngineParts = {
  readonly config: {
    readonly root: string;
    readonly state: string;
    readonly defaultHandler: string;
    /** Sizes of microVMs and programs of OCI runtimes, by handler. @default the handler's name is the program */
    readonly runtimes?: ReadonlyMap<string, RuntimeConfig>;
    /** @default true */
    readonly enableCriuSupport?: boolean;
  };
  readonly images: ImageService;
  readonly network: NetworkService;
  readonly cdi: CdiRegistry;
  readonly appArmor: DefaultProfile;
  readonly factories: ReadonlyMap<string, SandboxFactory>;
  readonly logger: Logger;
};

/** A pod in memory. `stored` is replaced, never changed, and always as it is in the store. */
export type PodEntry = { stored: StoredPod; sandbox: Sandbox | undefined };

export type ContainerEntry = {
  stored: StoredContainer;
  wasOomKilled: boolean;
  /** The stop under way: when the kill comes, in performance.now() terms, and how to bring it forward */
  stop: { killAt: number; shorten: (killAt: number) => void; readonly done: Promise<void> } | undefined;
};

/** Nanoseconds since 1970. */
export function nowNs(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

/** The engine's memory and its change notices. */
export class EngineState {
  readonly parts: EngineParts;
  readonly store: Store;
  readonly pods = new Map<string, PodEntry>();
  readonly containers = new Map<string, ContainerEntry>();
  /** Work under way by a name of its own: who asks for the same meanwhile gets the same promise. */
  readonly #underway = new Map<string, Promise<unknown>>();
  /** Set by the engine: ends what is left of a pod whose sandbox is gone. */
  onGone: (entry: PodEntry) => void = () => {};
  readonly #listeners = new Set<(event: EngineEvent) => void>();
  readonly #exitWaiters = new Map<string, Set<() => void>>();

  constructor(parts: EngineParts, store: Store) {
    this.parts = parts;
    this.store = store;
  }

  /** Joins the work of that name, or starts it. */
  once<T>(name: string, act: () => Promise<T>): Promise<T> {
    const current = this.#underway.get(name);
    // The name says which function it was started by, and with it the type.
    if (current) return current as Promise<T>;
    const work = act().finally(() => this.#underway.delete(name));
    this.#underway.set(name, work);
    return work;
  }

  /** Waits until the work of that name, if any, is over, however it ends. */
  async settled(name: string): Promise<void> {
    await this.#underway.get(name)?.catch(() => {});
  }

  pod(id: string): PodEntry {
    return byIdPrefix("pod", this.pods, id);
  }

  container(id: string): ContainerEntry {
    return byIdPrefix("container", this.containers, id);
  }

  containersOf(podId: string): readonly ContainerEntry[] {
    return [...this.containers.values()].filter((one) => one.stored.container.podId === podId);
  }

  /** The live sandbox of a pod. @throws WRONG_STATE when it is not ready */
  sandboxOf(podId: string): Sandbox {
    const entry = this.pod(podId);
    if (!entry.sandbox || entry.stored.stage !== "ready")
      throw new TinderboxError("WRONG_STATE", `pod ${podId} is ${entry.stored.stage}; it must be ready`);
    return entry.sandbox;
  }

  savePod(entry: PodEntry, change: Partial<StoredPod>): void {
    const stored = { ...entry.stored, ...change };
    this.store.savePod(stored);
    entry.stored = stored;
  }

  setPodState(entry: PodEntry, state: Pod["state"], change: Partial<StoredPod>): void {
    const hasChanged = entry.stored.pod.state !== state;
    this.savePod(entry, { ...change, pod: { ...entry.stored.pod, state } });
    if (hasChanged && state === "notready") this.emit("stopped", entry.stored.pod.id, entry.stored.pod.id);
  }

  saveContainer(entry: ContainerEntry, change: Partial<Container>, stage = entry.stored.stage): void {
    const stored = { ...entry.stored, stage, container: { ...entry.stored.container, ...change } };
    this.store.saveContainer(stored);
    entry.stored = stored;
  }

  /** Moves a container on; an ended one stays ended. */
  setPhase(entry: ContainerEntry, phase: ContainerPhase): void {
    const { id, podId, phase: before } = entry.stored.container;
    if (before.kind === "exited" || (before.kind === "running" && phase.kind === "running")) return;
    if (phase.kind === "created") return;
    this.saveContainer(entry, { phase });
    this.emit(phase.kind === "exited" ? "stopped" : "started", id, podId);
    if (phase.kind === "exited") {
      for (const wake of this.#exitWaiters.get(id) ?? []) wake();
      this.#exitWaiters.delete(id);
    }
  }

  /** Takes over what an agent says. */
  applyState(state: ContainerState): void {
    const entry = this.containers.get(state.id);
    if (!entry || entry.stored.stage === "creating") return;
    if (state.oomKilled) entry.wasOomKilled = true;
    if (state.status === ContainerState_Status.RUNNING) {
      this.setPhase(entry, { kind: "running", startedAtNs: state.startedAtNs || nowNs() });
    } else if (state.status === ContainerState_Status.EXITED) {
      const code = state.exitCode;
      this.setPhase(entry, {
        kind: "exited",
        startedAtNs: state.startedAtNs,
        finishedAtNs: state.finishedAtNs || nowNs(),
        exitCode: code,
        reason: entry.wasOomKilled ? "OOMKilled" : code === 0 ? "Completed" : "Error",
        message: "",
      });
    }
  }

  /** Ends a container whose own exit nobody saw. */
  setLost(entry: ContainerEntry, reason: string, message: string): void {
    const { phase, createdAtNs } = entry.stored.container;
    const startedAtNs = phase.kind === "running" ? phase.startedAtNs : createdAtNs;
    this.setPhase(entry, {
      kind: "exited",
      startedAtNs,
      finishedAtNs: nowNs(),
      exitCode: 255,
      reason,
      message,
    });
  }

  /** Listens to a sandbox from now on. */
  follow(entry: PodEntry, sandbox: Sandbox): void {
    entry.sandbox = sandbox;
    sandbox.onEvent((event) => {
      try {
        this.#onSandboxEvent(entry, event);
      } catch (cause) {
        this.parts.logger.error("taking over a sandbox's event", {
          pod: sandbox.id,
          cause: TinderboxError.from(cause).message,
        });
      }
    });
  }

  #onSandboxEvent(entry: PodEntry, event: SandboxEvent): void {
    switch (event.kind) {
      case "container":
        this.applyState(event.state);
        return;
      case "oom": {
        const container = this.containers.get(event.containerId);
        if (container) container.wasOomKilled = true;
        return;
      }
      case "gone": {
        if (this.pods.get(entry.stored.pod.id) !== entry) return;
        this.parts.logger.warn("sandbox gone", { pod: entry.stored.pod.id, reason: event.reason });
        for (const one of this.containersOf(entry.stored.pod.id))
          this.setLost(one, "SandboxGone", event.reason);
        if (entry.stored.stage !== "ready") return;
        this.setPodState(entry, "notready", { stage: "stopping" });
        this.onGone(entry);
      }
    }
  }

  /** Resolves once the container has exited, at once if it has. */
  async exited(entry: ContainerEntry, signal?: AbortSignal): Promise<void> {
    if (entry.stored.container.phase.kind === "exited") return;
    const { id } = entry.stored.container;
    signal?.throwIfAborted();
    const waiters = this.#exitWaiters.get(id) ?? new Set();
    this.#exitWaiters.set(id, waiters);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = (): void => reject(signal?.reason);
    waiters.add(resolve);
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await promise;
    } finally {
      waiters.delete(resolve);
      signal?.removeEventListener("abort", onAbort);
    }
  }

  emit(kind: EngineEvent["kind"], containerId: string, podId: string): void {
    const event = { kind, containerId, podId, atNs: nowNs() };
    for (const listener of this.#listeners) listener(event);
  }

  subscribe(listener: (event: EngineEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}
