/** The engine: pods and containers over sandboxes, images and networks. Each verb has a file; this is their front. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { TinderboxError } from "../base/errors.ts";
import type { AttachOptions, ProcessStreams, Sandbox } from "../sandbox/contract.ts";
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
import { hostFeatures, hostHasCgroupV2, lowestOomScoreAdj } from "./host-features.ts";
import { ifThere } from "./id-index.ts";
import { neededSize } from "./machine-size.ts";
import { ociResources } from "./oci-resources.ts";
import { recover } from "./recover.ts";
import { removeContainer, stopContainer } from "./remove-container.ts";
import { runPod } from "./run-pod.ts";
import { removePod, stopPod } from "./stop-pod.ts";
import { Store } from "./store.ts";

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

async function podUsageOf(state: EngineState, podId: string): Promise<PodUsage> {
  const sandbox = state.sandboxOf(podId);
  const stats = await sandbox.podStats();
  const isOwn = state.pod(podId).stored.pod.config.namespaces.network === "pod";
  return {
    timestampNs: stats.timestampNs,
    interfaces: (isOwn ? stats.interfaces : []).map((one) => ({
      name: one.name,
      received: {
        bytes: one.rxBytes,
        packets: one.rxPackets,
        errors: one.rxErrors,
        dropped: one.rxDropped,
      },
      sent: { bytes: one.txBytes, packets: one.txPackets, errors: one.txErrors, dropped: one.txDropped },
    })),
  };
}

async function usageOf(state: EngineState, entry: ContainerEntry): Promise<ContainerUsage> {
  const { id, podId } = entry.stored.container;
  const stats = await state.sandboxOf(podId).containerStats(id);
  return {
    containerId: id,
    timestampNs: stats.timestampNs,
    cpuUsageNs: stats.cpuUsageNs,
    memoryUsageBytes: stats.memoryUsageBytes,
    memoryWorkingSetBytes: stats.memoryWorkingSetBytes,
    memoryRssBytes: stats.memoryRssBytes,
    pids: stats.pids,
    pageFaults: stats.pageFaults,
    majorPageFaults: stats.majorPageFaults,
    writableBytes: stats.writableBytes,
    writableInodes: stats.writableInodes,
    counters: stats.counters,
    io: stats.io,
  };
}

async function updateResources(
  state: EngineState,
  entry: ContainerEntry,
  asked: LinuxResources,
): Promise<void> {
  const { id, podId, phase, config } = entry.stored.container;
  if (phase.kind === "exited")
    throw new TinderboxError("WRONG_STATE", `container ${id} is exited; it must be created or running`);
  const sandbox = state.sandboxOf(podId);
  const isHost = sandbox.place === "host";
  const before = config.resources;
  const adjusted = asked.oomScoreAdj || before.oomScoreAdj;
  await sandbox.updateContainer(
    id,
    ociResources(asked, isHost ? hostHasCgroupV2() : true),
    adjusted === before.oomScoreAdj ? undefined : Math.max(adjusted, isHost ? lowestOomScoreAdj() : -1000),
  );
  // What is not asked for stays as it was.
  const resources: LinuxResources = {
    cpuPeriod: asked.cpuPeriod || before.cpuPeriod,
    cpuQuota: asked.cpuQuota || before.cpuQuota,
    cpuShares: asked.cpuShares || before.cpuShares,
    memoryLimitBytes: asked.memoryLimitBytes || before.memoryLimitBytes,
    oomScoreAdj: adjusted,
    cpusetCpus: asked.cpusetCpus || before.cpusetCpus,
    cpusetMems: asked.cpusetMems || before.cpusetMems,
    hugepageLimits: asked.hugepageLimits.length > 0 ? asked.hugepageLimits : before.hugepageLimits,
    unified: { ...before.unified, ...asked.unified },
    memorySwapLimitBytes: asked.memorySwapLimitBytes || before.memorySwapLimitBytes,
  };
  const now = entry.stored.container.config;
  state.saveContainer(entry, { config: { ...now, resources } });
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
    return ifThere(
      () => this.#state.pod(id),
      (entry) => stopPod(this.#state, entry),
    );
  }

  removePod(id: string): Promise<void> {
    return ifThere(
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
    return ifThere(
      () => this.#state.container(id),
      (entry) => stopContainer(this.#state, entry, timeoutMs),
    );
  }

  removeContainer(id: string): Promise<void> {
    return ifThere(
      () => this.#state.container(id),
      (entry) => removeContainer(this.#state, entry),
    );
  }

  container(id: string): Container {
    return this.#state.container(id).stored.container;
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
    const { pod, record } = this.#state.pod(podId).stored;
    // On the host the kubelet has changed the cgroup above the pod's: there is nothing left to do.
    if (record?.place !== "microvm") return;
    const needed = neededSize(resources, overhead);
    const { vcpus, memoryMib } = record.spec;
    if (needed.memoryMib > memoryMib || needed.vcpus > vcpus)
      throw new TinderboxError(
        "UNSUPPORTED",
        `pod ${pod.id}: its microVM has ${vcpus} vCPU and ${memoryMib} MiB and does not grow; ${needed.vcpus} and ${needed.memoryMib} are asked for`,
      );
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
    await recover(state);
  } catch (cause) {
    state.store.close();
    throw cause;
  }
  return new TinderboxEngine(state);
}
