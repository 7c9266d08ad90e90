/** Every metric of ListPodSandboxMetrics: its name, what it says, its labels beside the common ones, and where its values come from. */
import type { Container, ContainerUsage, PodUsage, Pressure, Stalls } from "../engine/contract.ts";

/** Values of `labels`, then the value. */
export type Sample = { readonly labels: readonly string[]; readonly value: bigint };

type Described = {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge";
  readonly labels: readonly string[];
};
export type ContainerMetric = Described & {
  readonly read: (usage: ContainerUsage, container: Container) => readonly Sample[];
};
export type PodMetric = Described & { readonly read: (usage: PodUsage) => readonly Sample[] };

/** On every sample, in this order. */
export const commonLabels: readonly string[] = ["id", "image", "namespace", "pod", "container"];

const second = 1_000_000_000n;

const one = (value: bigint | undefined): readonly Sample[] =>
  value === undefined ? [] : [{ labels: [], value }];

function metric(
  type: Described["type"],
  name: string,
  help: string,
  read: (usage: ContainerUsage, container: Container) => bigint | undefined,
): ContainerMetric {
  return {
    name: `container_${name}`,
    help,
    type,
    labels: [],
    read: (usage, container) => one(read(usage, container)),
  };
}

/** Of the whole file system or of all devices: CRI asks for a device label. */
function onDevice(base: ContainerMetric): ContainerMetric {
  return {
    ...base,
    labels: ["device"],
    read: (usage, container) => base.read(usage, container).map((sample) => ({ ...sample, labels: [""] })),
  };
}

const counter = (name: string) => (usage: ContainerUsage) => usage.counters[name];
const seconds = (name: string) => (usage: ContainerUsage) => {
  const value = usage.counters[name];
  return value === undefined ? undefined : value / second;
};
const limitOf = (name: string) => (usage: ContainerUsage) => usage.counters[name] ?? 0n;
const ioSum = (pick: "readBytes" | "writeBytes" | "reads" | "writes") => (usage: ContainerUsage) =>
  usage.io.reduce((sum, device) => sum + device[pick], 0n);

function startedAt({ phase }: Container): bigint | undefined {
  return phase.kind === "created" ? undefined : phase.startedAtNs / second;
}

/** Seconds that tasks waited for want of one thing; no sample where the kernel does not count it. */
function pressure(
  of: keyof Pressure,
  what: string,
  name: "waiting" | "stalled",
  kind: keyof Stalls,
): ContainerMetric {
  const who = name === "waiting" ? "at least one task" : "every task";
  return metric(
    "counter",
    `pressure_${of}_${name}_seconds_total`,
    `Seconds that ${who} waited for ${what}.`,
    (usage) => {
      const stall = usage.pressure?.[of]?.[kind];
      return stall && stall.totalUs / 1_000_000n;
    },
  );
}

const c = metric.bind(undefined, "counter");
const g = metric.bind(undefined, "gauge");

/** One set of samples for each running container. */
export const containerMetrics: readonly ContainerMetric[] = [
  {
    name: "container_blkio_device_usage_total",
    help: "Bytes read and written, by block device.",
    type: "counter",
    labels: ["device", "major", "minor", "operation"],
    read: ({ io }) =>
      io.flatMap(({ major, minor, readBytes, writeBytes }) => {
        const device = ["", String(major), String(minor)];
        return [
          { labels: [...device, "Read"], value: readBytes },
          { labels: [...device, "Write"], value: writeBytes },
        ];
      }),
  },
  c("cpu_user_seconds_total", "Seconds of CPU in user mode.", seconds("cpu_user_ns")),
  c("cpu_system_seconds_total", "Seconds of CPU in the kernel.", seconds("cpu_system_ns")),
  c("cpu_usage_seconds_total", "Seconds of CPU.", ({ cpuUsageNs }) => cpuUsageNs / second),
  c("cpu_cfs_periods_total", "Periods of the CPU quota.", counter("cfs_periods")),
  c("cpu_cfs_throttled_periods_total", "Periods that ended throttled.", counter("cfs_throttled_periods")),
  c("cpu_cfs_throttled_seconds_total", "Seconds throttled by the CPU quota.", seconds("cfs_throttled_ns")),
  g("file_descriptors", "Open files.", counter("file_descriptors")),
  g("sockets", "Open sockets.", counter("sockets")),
  g("processes", "Processes.", counter("processes")),
  g("threads", "Threads.", counter("threads")),
  g("threads_max", "How many threads there may be; 0 is no limit.", limitOf("pids_limit")),
  onDevice(g("fs_inodes_free", "Free inodes where the writable layer is.", counter("fs_inodes_free"))),
  onDevice(g("fs_inodes_total", "Inodes where the writable layer is.", counter("fs_inodes_total"))),
  onDevice(g("fs_limit_bytes", "Size of the file system of the writable layer.", counter("fs_limit_bytes"))),
  onDevice(g("fs_usage_bytes", "Bytes of the writable layer.", ({ writableBytes }) => writableBytes)),
  onDevice(c("fs_reads_bytes_total", "Bytes read from block devices.", ioSum("readBytes"))),
  onDevice(c("fs_reads_total", "Reads from block devices.", ioSum("reads"))),
  onDevice(c("fs_writes_bytes_total", "Bytes written to block devices.", ioSum("writeBytes"))),
  onDevice(c("fs_writes_total", "Writes to block devices.", ioSum("writes"))),
  g(
    "last_seen",
    "When these figures were taken, seconds since 1970.",
    ({ timestampNs }) => timestampNs / second,
  ),
  g("start_time_seconds", "When the container was started, seconds since 1970.", (_, container) =>
    startedAt(container),
  ),
  g("memory_cache", "Bytes of page cache.", counter("memory_cache")),
  c("memory_failcnt", "Times the memory limit was hit.", counter("memory_failures")),
  {
    name: "container_memory_failures_total",
    help: "Page faults.",
    type: "counter",
    labels: ["failure_type", "scope"],
    read: ({ pageFaults, majorPageFaults }) =>
      ["container", "hierarchy"].flatMap((scope) => [
        { labels: ["pgfault", scope], value: pageFaults },
        { labels: ["pgmajfault", scope], value: majorPageFaults },
      ]),
  },
  g("memory_kernel_usage", "Bytes of kernel memory.", counter("memory_kernel")),
  g("memory_mapped_file", "Bytes of mapped files.", counter("memory_mapped_file")),
  g("memory_max_usage_bytes", "The most memory used so far, bytes.", counter("memory_max_usage")),
  g("memory_rss", "Bytes of anonymous memory.", ({ memoryRssBytes }) => memoryRssBytes),
  g("memory_swap", "Bytes in swap.", counter("memory_swap")),
  g("memory_usage_bytes", "Bytes of memory, cache included.", ({ memoryUsageBytes }) => memoryUsageBytes),
  g("memory_working_set_bytes", "Bytes of memory in active use.", (usage) => usage.memoryWorkingSetBytes),
  c("oom_events_total", "Processes killed for want of memory.", counter("oom_kills")),
  g("spec_cpu_period", "Period of the CPU quota, microseconds.", counter("cpu_period_us")),
  g("spec_cpu_quota", "CPU quota in a period, microseconds; absent without one.", counter("cpu_quota_us")),
  g("spec_cpu_shares", "CPU shares.", counter("cpu_shares")),
  g("spec_memory_limit_bytes", "Memory limit; 0 is none.", limitOf("memory_limit")),
  g(
    "spec_memory_reservation_limit_bytes",
    "Memory that is left to the container when others want it; 0 is none.",
    limitOf("memory_reservation"),
  ),
  g("spec_memory_swap_limit_bytes", "Swap limit; 0 is none.", limitOf("swap_limit")),
  {
    name: "container_hugetlb_usage_bytes",
    help: "Bytes of huge pages, by their size.",
    type: "gauge",
    labels: ["pagesize"],
    read: ({ hugePages }) =>
      hugePages.map(({ pageSize, usageBytes }) => ({ labels: [pageSize], value: usageBytes })),
  },
  {
    name: "container_hugetlb_max_usage_bytes",
    help: "The most bytes of huge pages so far, by their size; counted by cgroup version 1 only.",
    type: "gauge",
    labels: ["pagesize"],
    read: ({ hugePages }) =>
      hugePages.flatMap(({ pageSize, maxUsageBytes: value }) =>
        value === undefined ? [] : [{ labels: [pageSize], value }],
      ),
  },
  {
    name: "container_ulimits_soft",
    help: "Soft limits of the container's first process; absent without one.",
    type: "gauge",
    labels: ["ulimit"],
    read: ({ counters }) =>
      one(counters["open_files_limit"]).map((sample) => ({ ...sample, labels: ["max_open_files"] })),
  },
  pressure("cpu", "a processor", "waiting", "some"),
  pressure("cpu", "a processor", "stalled", "full"),
  pressure("memory", "memory", "waiting", "some"),
  pressure("memory", "memory", "stalled", "full"),
  pressure("io", "input or output", "waiting", "some"),
  pressure("io", "input or output", "stalled", "full"),
];

const directions = [
  ["receive", "received"],
  ["transmit", "sent"],
] as const;
const kinds = [
  ["bytes", "bytes", "Bytes"],
  ["errors", "errors", "Errors"],
  ["packets", "packets", "Packets"],
  ["packets_dropped", "dropped", "Packets dropped"],
] as const;

/** One set of samples for each ready pod: the network is the pod's. */
export const podMetrics: readonly PodMetric[] = directions.flatMap(([direction, side]) =>
  kinds.map(
    ([name, key, what]): PodMetric => ({
      name: `container_network_${direction}_${name}_total`,
      help: `${what} ${side}, by interface of the pod.`,
      type: "counter",
      labels: ["interface"],
      read: ({ interfaces }) =>
        interfaces.map((iface) => ({ labels: [iface.name], value: iface[side][key] })),
    }),
  ),
);
