/** New resources for a container or a pod that is there. A microVM keeps the size that it was made with. */
import { TinderboxError } from "../base/errors.ts";
import type { LinuxResources, PodResources } from "./contract.ts";
import type { ContainerEntry, EngineState } from "./engine-state.ts";
import { hostHasCgroupV2, lowestOomScoreAdj } from "./host-features.ts";
import { type MachineSize, neededSize } from "./machine-size.ts";
import { ociResources } from "./oci-resources.ts";
import type { StoredPod } from "./store.ts";

// Not UNSUPPORTED: a kubelet takes that for a runtime without the call, and goes on as if the machine had grown.
function tooLarge(what: string, { vcpus, memoryMib }: MachineSize, allowed: string): TinderboxError {
  return new TinderboxError(
    "LIMIT",
    `${what}: the microVM was made with ${vcpus} vCPU and ${memoryMib} MiB and does not grow; allowed is ${allowed}, or a new pod`,
  );
}

/** What a container asks for beyond what it had must be there. */
function checkFitsMachine(
  id: string,
  asked: LinuxResources,
  before: LinuxResources,
  machine: MachineSize,
): void {
  const memory = machine.memoryMib * (1 << 20);
  if (asked.memoryLimitBytes > Math.max(memory, before.memoryLimitBytes))
    throw tooLarge(
      `container ${id}: linux.memory_limit_in_bytes ${asked.memoryLimitBytes}`,
      machine,
      `at most ${memory}`,
    );
  const quota = (of: LinuxResources): number =>
    of.cpuQuota > 0 && of.cpuPeriod > 0 ? of.cpuQuota / of.cpuPeriod : 0;
  if (quota(asked) > Math.max(machine.vcpus, quota(before)))
    throw tooLarge(
      `container ${id}: linux.cpu_quota ${asked.cpuQuota}`,
      machine,
      `at most ${machine.vcpus} times cpu_period, ${machine.vcpus * asked.cpuPeriod}`,
    );
}

/** A container's own limits. @throws LIMIT for more than its microVM has */
export async function updateResources(
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
  const { record } = state.pod(podId).stored;
  if (record?.place === "microvm") checkFitsMachine(id, asked, before, record.spec);
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

/** What the kubelet has given the pod. @throws LIMIT when its microVM is smaller than that */
export function updatePodResources(
  { pod, record }: StoredPod,
  resources: PodResources,
  overhead: PodResources,
): void {
  // On the host the kubelet has changed the cgroup above the pod's: there is nothing left to do.
  if (record?.place !== "microvm") return;
  const needed = neededSize(resources, overhead);
  const { vcpus, memoryMib } = record.spec;
  if (needed.memoryMib <= memoryMib && needed.vcpus <= vcpus) return;
  // What the guest itself takes beside the containers.
  const own = needed.memoryMib - Math.ceil(resources.memoryLimitBytes / (1 << 20));
  throw tooLarge(
    `pod ${pod.id}: resources and overhead that need ${needed.vcpus} vCPU and ${needed.memoryMib} MiB`,
    record.spec,
    `resources of at most ${vcpus} CPU and ${Math.max(0, memoryMib - own)} MiB`,
  );
}
