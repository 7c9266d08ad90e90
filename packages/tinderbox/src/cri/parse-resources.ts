/** CRI's LinuxContainerResources as the engine's LinuxResources, and back for ContainerStatus. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { LinuxResources } from "../engine/contract.ts";
import type { LinuxContainerResources, LinuxContainerResourcesSchema } from "../rpc/gen/runtime/v1/api_pb.ts";
import { integer, invalid, plainText, refuse } from "./field-checks.ts";

function cpuList(path: string, value: string): string {
  if (!/^(\d+(-\d+)?(,\d+(-\d+)?)*)?$/.test(value)) throw invalid(path, value, "a list like 0-3,7");
  return value;
}

/** Parses and checks; an absent message means no limit at all. */
export function parseResources(path: string, resources: LinuxContainerResources | undefined): LinuxResources {
  for (const [key, value] of Object.entries(resources?.unified ?? {})) {
    if (!/^[a-z0-9_]+(\.[a-z0-9_]+)+$/.test(key))
      throw invalid(`${path}.unified`, key, "a cgroup v2 file name like memory.high");
    plainText(`${path}.unified[${key}]`, value, 1, 1024);
  }
  return {
    cpuPeriod: integer(`${path}.cpu_period`, resources?.cpuPeriod ?? 0n, 0),
    cpuQuota: integer(`${path}.cpu_quota`, resources?.cpuQuota ?? 0n, -1),
    cpuShares: integer(`${path}.cpu_shares`, resources?.cpuShares ?? 0n, 0),
    memoryLimitBytes: integer(`${path}.memory_limit_in_bytes`, resources?.memoryLimitInBytes ?? 0n, 0),
    oomScoreAdj: integer(`${path}.oom_score_adj`, resources?.oomScoreAdj ?? 0n, -1000, 1000),
    cpusetCpus: cpuList(`${path}.cpuset_cpus`, resources?.cpusetCpus ?? ""),
    cpusetMems: cpuList(`${path}.cpuset_mems`, resources?.cpusetMems ?? ""),
    hugepageLimits: (resources?.hugepageLimits ?? []).map(({ pageSize, limit }, n) => {
      if (!/^\d+[KMG]B$/.test(pageSize))
        throw invalid(`${path}.hugepage_limits[${n}].page_size`, pageSize, "a size like 2MB");
      return { pageSize, limit: integer(`${path}.hugepage_limits[${n}].limit`, limit, 0) };
    }),
    unified: resources?.unified ?? {},
    memorySwapLimitBytes: integer(
      `${path}.memory_swap_limit_in_bytes`,
      resources?.memorySwapLimitInBytes ?? 0n,
      -1,
    ),
  };
}

/**
 * A pod's sizing hints, for its whole or for its overhead. Its cgroup is the kubelet's own; what a kubelet never sends here
 * would be a limit that nobody sets.
 */
export function parsePodResources(
  path: string,
  resources: LinuxContainerResources | undefined,
): LinuxResources {
  const parsed = parseResources(path, resources);
  const limits = {
    oom_score_adj: parsed.oomScoreAdj || "",
    cpuset_cpus: parsed.cpusetCpus,
    cpuset_mems: parsed.cpusetMems,
    hugepage_limits: parsed.hugepageLimits.find(({ limit }) => limit > 0)?.pageSize ?? "",
    memory_swap_limit_in_bytes: parsed.memorySwapLimitBytes || "",
  };
  for (const [name, value] of Object.entries(limits))
    refuse(value !== "", `${path}.${name}`, value, "only containers have it");
  return parsed;
}

/** As ContainerStatus reports them. */
export function resourcesToCri(
  resources: LinuxResources,
): MessageInitShape<typeof LinuxContainerResourcesSchema> {
  return {
    cpuPeriod: BigInt(resources.cpuPeriod),
    cpuQuota: BigInt(resources.cpuQuota),
    cpuShares: BigInt(resources.cpuShares),
    memoryLimitInBytes: BigInt(resources.memoryLimitBytes),
    oomScoreAdj: BigInt(resources.oomScoreAdj),
    cpusetCpus: resources.cpusetCpus,
    cpusetMems: resources.cpusetMems,
    hugepageLimits: resources.hugepageLimits.map(({ pageSize, limit }) => ({
      pageSize,
      limit: BigInt(limit),
    })),
    unified: { ...resources.unified },
    memorySwapLimitInBytes: BigInt(resources.memorySwapLimitBytes),
  };
}
