/** How large a pod's microVM is made: what the handler says, or more when the pod's containers may use more. */
import { availableParallelism, totalmem } from "node:os";
import type { RuntimeConfig } from "../daemon/config.ts";
import type { PodResources } from "./contract.ts";

export type MachineSize = { readonly vcpus: number; readonly memoryMib: number };

/** What kernel, agent and page tables need beside the containers' own memory */
const guestMib = 128;
/** Firecracker's own limit */
const maxVcpus = 32;

const cpusOf = ({ cpuQuota, cpuPeriod }: PodResources): number =>
  cpuQuota > 0 && cpuPeriod > 0 ? cpuQuota / cpuPeriod : 0;
const mibOf = ({ memoryLimitBytes }: PodResources): number => Math.ceil(memoryLimitBytes / (1 << 20));

/** What the pod needs at least. */
export function neededSize(resources: PodResources, overhead: PodResources): MachineSize {
  const memoryMib = mibOf(resources);
  return {
    vcpus: Math.ceil(cpusOf(resources) + (cpusOf(resources) > 0 ? cpusOf(overhead) : 0)),
    memoryMib: memoryMib === 0 ? 0 : memoryMib + Math.max(mibOf(overhead), guestMib),
  };
}

/** The machine for a pod, never larger than the host. */
export function machineSize(
  runtime: RuntimeConfig | undefined,
  resources: PodResources,
  overhead: PodResources,
): MachineSize {
  const usual =
    runtime?.type === "microvm"
      ? { vcpus: runtime.vcpus, memoryMib: runtime.memoryMib }
      : { vcpus: 1, memoryMib: 512 };
  const needed = neededSize(resources, overhead);
  return {
    vcpus: Math.max(usual.vcpus, Math.min(needed.vcpus, maxVcpus, availableParallelism())),
    memoryMib: Math.max(usual.memoryMib, Math.min(needed.memoryMib, Math.floor(totalmem() / (1 << 20)))),
  };
}
