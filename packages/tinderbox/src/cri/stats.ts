/** ContainerStats and PodSandboxStats with their lists. A list leaves out what does not answer soon: it must never wait on one VM. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Container, ContainerUsage, Pod, PodUsage, Pressure, Stalls } from "../engine/contract.ts";
import type {
  ContainerStatsFilter,
  ContainerStatsSchema,
  NetworkUsageSchema,
  PodSandboxStatsFilter,
  PodSandboxStatsSchema,
  PsiStatsSchema,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { inChunks } from "./chunks.ts";
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { idOf } from "./field-checks.ts";
import { hasLabels, matchesId } from "./label-filter.ts";
import { soon } from "./soon.ts";

type Stats = MessageInitShape<typeof ContainerStatsSchema>;
type Sample = { readonly atNs: bigint; readonly usageNs: bigint; readonly nanoCores: bigint };

/** CPU use between two looks at the same container. */
class CpuRates {
  readonly #samples = new Map<string, Sample>();

  rate(usage: ContainerUsage): bigint {
    const last = this.#samples.get(usage.containerId);
    const elapsed = last === undefined ? 0n : usage.timestampNs - last.atNs;
    if (last !== undefined && elapsed <= 0n) return last.nanoCores;
    const used = last === undefined ? 0n : usage.cpuUsageNs - last.usageNs;
    const nanoCores = used > 0n ? (used * 1_000_000_000n) / elapsed : 0n;
    this.#samples.set(usage.containerId, { atNs: usage.timestampNs, usageNs: usage.cpuUsageNs, nanoCores });
    return nanoCores;
  }

  keepOnly(ids: ReadonlySet<string>): void {
    for (const id of this.#samples.keys()) if (!ids.has(id)) this.#samples.delete(id);
  }
}

type Psi = { readonly psi?: MessageInitShape<typeof PsiStatsSchema> };

/** Microseconds as nanoseconds; empty where the kernel does not count them. */
function psiOf(stalls: Stalls | undefined): Psi {
  if (stalls === undefined) return {};
  const toCri = (stall: Stalls["some"]) =>
    stall && {
      Total: stall.totalUs * 1_000n,
      Avg10: stall.avg10,
      Avg60: stall.avg60,
      Avg300: stall.avg300,
    };
  const [Some, Full] = [toCri(stalls.some), toCri(stalls.full)];
  return { psi: { ...(Some && { Some }), ...(Full && { Full }) } };
}

function ioOf(pressure: Pressure | undefined, timestamp: bigint): Pick<Stats, "io"> {
  return pressure?.io === undefined ? {} : { io: { timestamp, ...psiOf(pressure.io) } };
}

function toCri(container: Container, usage: ContainerUsage, nanoCores: bigint, mountpoint: string): Stats {
  const { name, attempt, labels, annotations, resources } = container.config;
  const timestamp = usage.timestampNs;
  const left = BigInt(resources.memoryLimitBytes) - usage.memoryWorkingSetBytes;
  return {
    attributes: {
      id: container.id,
      metadata: { name, attempt },
      labels: { ...labels },
      annotations: { ...annotations },
    },
    cpu: {
      timestamp,
      usageCoreNanoSeconds: { value: usage.cpuUsageNs },
      usageNanoCores: { value: nanoCores },
      ...psiOf(usage.pressure?.cpu),
    },
    memory: {
      timestamp,
      workingSetBytes: { value: usage.memoryWorkingSetBytes },
      ...(resources.memoryLimitBytes > 0 ? { availableBytes: { value: left > 0n ? left : 0n } } : {}),
      usageBytes: { value: usage.memoryUsageBytes },
      rssBytes: { value: usage.memoryRssBytes },
      pageFaults: { value: usage.pageFaults },
      majorPageFaults: { value: usage.majorPageFaults },
      ...psiOf(usage.pressure?.memory),
    },
    writableLayer: {
      timestamp,
      fsId: { mountpoint },
      usedBytes: { value: usage.writableBytes },
      inodesUsed: { value: usage.writableInodes },
    },
    ...swapOf(usage, timestamp),
    ...ioOf(usage.pressure, timestamp),
  };
}

function swapOf({ counters }: ContainerUsage, timestamp: bigint): Pick<Stats, "swap"> {
  const used = counters["memory_swap"];
  if (used === undefined) return {};
  const limit = counters["swap_limit"];
  const left = limit === undefined ? {} : { swapAvailableBytes: { value: limit > used ? limit - used : 0n } };
  return { swap: { timestamp, swapUsageBytes: { value: used }, ...left } };
}

function networkOf(usage: PodUsage): MessageInitShape<typeof NetworkUsageSchema> | undefined {
  const interfaces = usage.interfaces.map(({ name, received, sent }) => ({
    name,
    rxBytes: { value: received.bytes },
    rxErrors: { value: received.errors },
    txBytes: { value: sent.bytes },
    txErrors: { value: sent.errors },
  }));
  const [defaultInterface] = interfaces;
  return defaultInterface && { timestamp: usage.timestampNs, defaultInterface, interfaces };
}

type Measured = { readonly container: Container; readonly usage: ContainerUsage; readonly stats: Stats };

function podToStats(
  pod: Pod,
  measured: readonly Measured[],
  usage: PodUsage | undefined,
): MessageInitShape<typeof PodSandboxStatsSchema> {
  const network = usage && networkOf(usage);
  const { name, uid, namespace, attempt, labels, annotations } = pod.config;
  const sum = (pick: (one: Measured) => bigint) => ({
    value: measured.reduce((total, one) => total + pick(one), 0n),
  });
  const timestamp = BigInt(Date.now()) * 1_000_000n;
  return {
    attributes: {
      id: pod.id,
      metadata: { name, uid, namespace, attempt },
      labels: { ...labels },
      annotations: { ...annotations },
    },
    linux: {
      cpu: {
        timestamp,
        usageCoreNanoSeconds: sum(({ usage }) => usage.cpuUsageNs),
        usageNanoCores: sum(({ stats }) => stats.cpu?.usageNanoCores?.value ?? 0n),
        ...psiOf(usage?.pressure?.cpu),
      },
      memory: {
        timestamp,
        workingSetBytes: sum(({ usage }) => usage.memoryWorkingSetBytes),
        usageBytes: sum(({ usage }) => usage.memoryUsageBytes),
        rssBytes: sum(({ usage }) => usage.memoryRssBytes),
        pageFaults: sum(({ usage }) => usage.pageFaults),
        majorPageFaults: sum(({ usage }) => usage.majorPageFaults),
        ...psiOf(usage?.pressure?.memory),
      },
      ...(network && { network }),
      process: { timestamp, processCount: sum(({ usage }) => usage.pids) },
      containers: measured.map(({ stats }) => stats),
      ...ioOf(usage?.pressure, timestamp),
    },
  };
}

/** The calls that measure. */
export function statsCalls({ engine, logger }: CriContext): RuntimeCalls {
  const rates = new CpuRates();
  const mountpoint = async (): Promise<string> => (await engine.images.usage()).mountpoint;

  const measure = async (container: Container, where: string): Promise<Measured> => {
    const usage = await engine.usage(container.id);
    return { container, usage, stats: toCri(container, usage, rates.rate(usage), where) };
  };

  const measureSoon = (container: Container, where: string): Promise<Measured | undefined> =>
    soon(`container ${container.id}`, logger, () => measure(container, where));

  const measureAll = async (wanted: (container: Container) => boolean): Promise<readonly Measured[]> => {
    const all = engine.containers();
    rates.keepOnly(new Set(all.map(({ id }) => id)));
    const where = await mountpoint();
    const running = all.filter((container) => container.phase.kind === "running" && wanted(container));
    const measured = await Promise.all(running.map((container) => measureSoon(container, where)));
    return measured.filter((one) => one !== undefined);
  };

  const podUsage = (pod: Pod): Promise<PodUsage | undefined> =>
    soon(`pod ${pod.id}`, logger, () => engine.podUsage(pod.id));

  const listContainers = async (filter: ContainerStatsFilter | undefined): Promise<Stats[]> => {
    const measured = await measureAll(
      ({ id, podId, config }) =>
        matchesId(id, filter?.id) &&
        matchesId(podId, filter?.podSandboxId) &&
        hasLabels(config.labels, filter?.labelSelector),
    );
    return measured.map(({ stats }) => stats);
  };

  const listPods = async (filter: PodSandboxStatsFilter | undefined) => {
    const pods = engine
      .pods()
      .filter(
        (pod) =>
          pod.state === "ready" &&
          matchesId(pod.id, filter?.id) &&
          hasLabels(pod.config.labels, filter?.labelSelector),
      );
    const ids = new Set(pods.map(({ id }) => id));
    const measured = await measureAll(({ podId }) => ids.has(podId));
    return Promise.all(
      pods.map(async (pod) =>
        podToStats(
          pod,
          measured.filter(({ container }) => container.podId === pod.id),
          await podUsage(pod),
        ),
      ),
    );
  };

  return {
    containerStats: async ({ containerId }) => {
      const container = engine.container(idOf("container_id", containerId));
      return { stats: (await measure(container, await mountpoint())).stats };
    },
    listContainerStats: async ({ filter }) => ({ stats: await listContainers(filter) }),
    async *streamContainerStats({ filter }) {
      for (const containerStats of inChunks(await listContainers(filter))) yield { containerStats };
    },
    podSandboxStats: async ({ podSandboxId }) => {
      const pod = engine.pod(idOf("pod_sandbox_id", podSandboxId));
      return {
        stats: podToStats(pod, await measureAll(({ podId }) => podId === pod.id), await podUsage(pod)),
      };
    },
    listPodSandboxStats: async ({ filter }) => ({ stats: await listPods(filter) }),
    async *streamPodSandboxStats({ filter }) {
      for (const podSandboxStats of inChunks(await listPods(filter))) yield { podSandboxStats };
    },
  };
}
