/** The engine: pods and containers over sandboxes, images and networks. Each verb has a file; this is their front. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { TinderboxError } from "../base/errors.ts";
import type { CdiStatus } from "../cdi/contract.ts";
import type { AttachOptions, ProcessStreams, Sandbox } from "../sandbox/contract.ts";
import { checkpointContainer, checkpointSupport } from "./checkpoint-container.ts";
import { recoverCheckpoints } from "./checkpoint-journal.ts";
import type {
  Container,
  ContainerUsage,
  Engine,
  ExecRequest,
  LinuxResources,
  Pod,
  PodResources,
  PodUsage,
} from "./contract.ts";
import { createContainer, startContainer } from "./create-container.ts";
import { type ContainerEntry, type EngineParts, EngineState } from "./engine-state.ts";
import { hostFeatures } from "./host-features.ts";
import { doIfThere } from "./id-index.ts";
import { recover } from "./recover.ts";
import { removeContainer, stopContainer } from "./remove-container.ts";
import { runPod } from "./run-pod.ts";
import { removePod, stopPod } from "./stop-pod.ts";
import { Store } from "./store.ts";
import { updatePodResources, updateResources } from "./update-resources.ts";
import { podUsageOf, usageOf } from "./usage.ts";

/** Ends the caller's wait when it aborts; the work goes on and a retry joins it. */
function whileWanted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  work.catch(() => {});
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(TinderboxError.from(signal.reason, "ABORTED"));
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  return Promise.race([work, promise]).finally(() => signal.removeEventListener("abort", onAbort));
}

/** The sandbox of a running container. */
function sandboxOfRunning(state: EngineState, entry: ContainerEntry): Sandbox {
  const { id, podId, phase } = entry.stored.container;
  if (phase.kind !== "running")
    throw new TinderboxError("WRONG_STATE", `container ${id} is ${phase.kind}; it must be running`);
  return state.sandboxOf(podId);
}

function exec(state: EngineState, entry: ContainerEntry, request: ExecRequest): Promise<ProcessStreams> {
  if (request.command.length === 0)
    throw new TinderboxError("INVALID", "cmd: at least the program is expected");
  const { command, tty, ...streams } = request;
  const { process } = entry.stored;
  const env =
    tty && !process.env.some((one) => one.startsWith("TERM=")) ? [...process.env, "TERM=xterm"] : process.env;
  return sandboxOfRunning(state, entry).exec(entry.stored.container.id, {
    ...streams,
    terminal: tty,
    processJson: { ...process, terminal: tty, args: command, env },
  });
}

class TinderboxEngine implements Engine {
  readonly #state: EngineState;
  readonly images: Engine["images"];
  readonly handlers: Engine["handlers"];
  readonly defaultHandler: string;

  constructor(state: EngineState) {
    this.#state = state;
    this.images = state.parts.images;
    this.defaultHandler = state.parts.config.defaultHandler;
    const inGuest = { recursiveReadOnlyMounts: true, userNamespaces: true };
    const onHost = hostFeatures(state.parts.config.state);
    this.handlers = [...state.parts.factories].map(([name, { place }]) => ({
      name,
      place,
      features: place === "host" ? onHost : inGuest,
    }));
  }

  cdiStatus(): Promise<CdiStatus> {
    return this.#state.parts.cdi.status();
  }

  networkStatus(): ReturnType<Engine["networkStatus"]> {
    return this.#state.parts.network.status();
  }

  setPodCidrs(podCidrs: readonly string[]): Promise<void> {
    return this.#state.parts.network.setPodCidrs(podCidrs);
  }

  runPod(...[config, handler, signal]: Parameters<Engine["runPod"]>): Promise<Pod> {
    return whileWanted(runPod(this.#state, config, handler), signal);
  }

  stopPod(id: string): Promise<void> {
    return doIfThere(
      () => this.#state.pod(id),
      (entry) => stopPod(this.#state, entry),
    );
  }

  removePod(id: string): Promise<void> {
    return doIfThere(
      () => this.#state.pod(id),
      (entry) => removePod(this.#state, entry),
    );
  }

  pod(id: string): Pod {
    return this.#state.pod(id).stored.pod;
  }

  pods(): readonly Pod[] {
    return [...this.#state.pods.values()].map((entry) => entry.stored.pod);
  }

  async createContainer(
    ...[podId, config, signal]: Parameters<Engine["createContainer"]>
  ): Promise<Container> {
    return whileWanted(createContainer(this.#state, podId, config), signal);
  }

  async startContainer(id: string, signal: AbortSignal): Promise<void> {
    return whileWanted(startContainer(this.#state, this.#state.container(id)), signal);
  }

  stopContainer(id: string, timeoutMs: number): Promise<void> {
    return doIfThere(
      () => this.#state.container(id),
      (entry) => stopContainer(this.#state, entry, timeoutMs),
    );
  }

  removeContainer(id: string): Promise<void> {
    return doIfThere(
      () => this.#state.container(id),
      (entry) => removeContainer(this.#state, entry),
    );
  }

  container(id: string): Container {
    return this.#state.container(id).stored.container;
  }
  async containerPid(id: string): Promise<number> {
    const { id: whole, podId, phase } = this.container(id);
    const sandbox = this.#state.pods.get(podId)?.sandbox;
    if (phase.kind !== "running" || sandbox?.place !== "host") return 0;
    // It may end meanwhile.
    return sandbox.containerState(whole).then(
      ({ pid }) => pid,
      () => 0,
    );
  }

  containers(): readonly Container[] {
    return [...this.#state.containers.values()].map((entry) => entry.stored.container);
  }

  async reopenLog(id: string): Promise<void> {
    const entry = this.#state.container(id);
    const { container } = entry.stored;
    await sandboxOfRunning(this.#state, entry).reopenLog(container.id, container.logPath);
  }

  async updateResources(id: string, resources: LinuxResources): Promise<void> {
    await updateResources(this.#state, this.#state.container(id), resources);
  }

  async usage(id: string): Promise<ContainerUsage> {
    return usageOf(this.#state, this.#state.container(id));
  }

  updatePodResources(podId: string, resources: PodResources, overhead: PodResources): void {
    updatePodResources(this.#state.pod(podId).stored, resources, overhead);
  }

  checkpointSupport(
    ...[handler]: Parameters<Engine["checkpointSupport"]>
  ): ReturnType<Engine["checkpointSupport"]> {
    return checkpointSupport(this.#state, handler);
  }

  async checkpointContainer(...[id, ...how]: Parameters<Engine["checkpointContainer"]>): Promise<void> {
    await checkpointContainer(this.#state, this.#state.container(id), ...how);
  }

  async podUsage(podId: string): Promise<PodUsage> {
    return podUsageOf(this.#state, this.#state.pod(podId).stored.pod.id);
  }

  async exec(id: string, request: ExecRequest): Promise<ProcessStreams> {
    return exec(this.#state, this.#state.container(id), request);
  }

  async attach(id: string, options: AttachOptions): Promise<ProcessStreams> {
    const entry = this.#state.container(id);
    const { container } = entry.stored;
    // One that is not started yet, too: who attaches first misses nothing.
    if (container.phase.kind === "created")
      return this.#state.sandboxOf(container.podId).attach(container.id, options);
    return sandboxOfRunning(this.#state, entry).attach(container.id, options);
  }

  async portForward(podId: string, port: number): Promise<Duplex> {
    return this.#state.sandboxOf(this.#state.pod(podId).stored.pod.id).connect(port);
  }

  async waitContainer(id: string, signal: AbortSignal): Promise<Container> {
    const entry = this.#state.container(id);
    await this.#state.exited(entry, signal);
    return entry.stored.container;
  }

  subscribe(...[listener]: Parameters<Engine["subscribe"]>): () => void {
    return this.#state.subscribe(listener);
  }

  async close(): Promise<void> {
    const sandboxes = [...this.#state.pods.values()].flatMap(({ sandbox }) => (sandbox ? [sandbox] : []));
    await Promise.allSettled(sandboxes.map((sandbox) => sandbox.detach()));
    this.#state.store.close();
  }
}

/** Opens the engine of a node, with everything that outlived the last one taken up again. */
export async function openEngine(parts: EngineParts): Promise<Engine> {
  await mkdir(parts.config.root, { recursive: true, mode: 0o700 });
  await mkdir(parts.config.state, { recursive: true, mode: 0o700 });
  const state = new EngineState(parts, new Store(join(parts.config.root, "engine.db")));
  state.onGone = (entry) =>
    void stopPod(state, entry).catch((cause) =>
      parts.logger.error("cleaning up after a sandbox that is gone", {
        pod: entry.stored.pod.id,
        cause: TinderboxError.from(cause).message,
      }),
    );
  try {
    await recoverCheckpoints(parts.config.root, parts.logger);
    await recover(state);
  } catch (cause) {
    state.store.close();
    throw cause;
  }
  return new TinderboxEngine(state);
}
