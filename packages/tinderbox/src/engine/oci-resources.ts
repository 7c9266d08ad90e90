/** CRI's Linux resources as OCI `linux.resources`. Zero means "not asked for" everywhere in CRI but in limits of huge pages. */
import { TinderboxError } from "../base/errors.ts";
import type { LinuxResources } from "./contract.ts";

/** Only what is asked for is in the result. @throws INVALID for files of cgroup v2 where there is none */
export function ociResources(
  asked: LinuxResources,
  hasCgroupV2: boolean,
): { readonly [part: string]: unknown } {
  const [unified] = Object.keys(asked.unified);
  if (unified !== undefined && !hasCgroupV2)
    throw new TinderboxError(
      "INVALID",
      `resources.unified ${JSON.stringify(unified)}: this host has cgroup v1`,
    );
  const cpu = {
    ...(asked.cpuPeriod > 0 ? { period: asked.cpuPeriod } : {}),
    ...(asked.cpuQuota !== 0 ? { quota: asked.cpuQuota } : {}),
    ...(asked.cpuShares > 0 ? { shares: asked.cpuShares } : {}),
    ...(asked.cpusetCpus !== "" ? { cpus: asked.cpusetCpus } : {}),
    ...(asked.cpusetMems !== "" ? { mems: asked.cpusetMems } : {}),
  };
  const memory = {
    ...(asked.memoryLimitBytes > 0 ? { limit: asked.memoryLimitBytes } : {}),
    ...(asked.memorySwapLimitBytes > 0 ? { swap: asked.memorySwapLimitBytes } : {}),
  };
  return {
    ...(Object.keys(cpu).length > 0 ? { cpu } : {}),
    ...(Object.keys(memory).length > 0 ? { memory } : {}),
    // Here zero is a limit: a container that asked for no huge pages gets none.
    ...(asked.hugepageLimits.length > 0 ? { hugepageLimits: asked.hugepageLimits } : {}),
    ...(Object.keys(asked.unified).length > 0 ? { unified: asked.unified } : {}),
  };
}
