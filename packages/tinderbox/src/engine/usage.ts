/** What pods and containers use, as their agents count it. */
import type { ContainerUsage, PodUsage } from "./contract.ts";
import type { ContainerEntry, EngineState } from "./engine-state.ts";

/** What a pod uses beside its containers. */
export async function podUsageOf(state: EngineState, podId: string): Promise<PodUsage> {
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
    pressure: stats.pressure,
  };
}

/** What a container uses. */
export async function usageOf(state: EngineState, entry: ContainerEntry): Promise<ContainerUsage> {
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
    pressure: stats.pressure,
    hugePages: stats.hugePages,
  };
}
