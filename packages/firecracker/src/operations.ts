/** Firecracker's API as one table: what may be sent when, to which version. Everything checked before sending is checked by it. */
import type { DrivePatchWire, DriveWire, PmemPatchWire, PmemWire } from "./drive-wire.ts";
import type {
  BalloonPatchWire,
  BalloonStatisticsPatchWire,
  BalloonWire,
  HintingStartWire,
  MemoryHotplugPatchWire,
  MemoryHotplugWire,
} from "./memory-wire.ts";
import type {
  MmdsConfigWire,
  NetworkInterfacePatchWire,
  NetworkInterfaceWire,
  VsockWire,
} from "./network-wire.ts";
import type { LoggerWire, MetricsWire, SerialWire } from "./output-wire.ts";
import type { RateLimiterWire, TokenBucketWire } from "./rate-limit-wire.ts";
import type { MemoryBackendWire, SnapshotCreateWire, SnapshotLoadWire } from "./snapshot-wire.ts";
import type {
  ActionWire,
  BootSourceWire,
  CpuConfigWire,
  EntropyWire,
  MachineConfigWire,
  VmStateWire,
} from "./vm-wire.ts";

/** HTTP methods that the VMM knows. */
export type Method = "GET" | "PUT" | "PATCH" | "DELETE";

/**
 * What the VMM does with a path: reads or writes a file that is there, makes (or opens) an output, binds a socket, or
 * connects to one.
 */
export type PathUse = "read" | "write" | "output" | "bind" | "connect";

/** What is known of one field of a body. */
export type FieldSpec = {
  /** The first version of each release line that has it, oldest first; absent: all of them */
  readonly since?: readonly string[];
  /** Values newer than the field */
  readonly values?: Readonly<Record<string, readonly string[]>>;
  /** It is a path, used so; by the rest of the body for a drive */
  readonly path?: PathUse | ((body: Readonly<Record<string, unknown>>) => PathUse);
  /** Fields of the object, or of each object in the array, that it holds */
  readonly fields?: Readonly<Record<string, FieldSpec>>;
};

/** One operation. */
export type OperationSpec = {
  /** HTTP method */
  readonly method: Method;
  /** With `{}` for the id */
  readonly path: string;
  /** Name of the body's field that is the path's id */
  readonly id?: string;
  /** before or after InstanceStart, only while paused, or any time */
  readonly when: "before" | "after" | "paused" | "any";
  /** The first version of each release line that has it; absent: all */
  readonly since?: readonly string[];
  /** Allowed after the start too (it plugs a device in), from this version on */
  readonly afterSince?: readonly string[];
  /** Fields of the body; absent: no body, or any JSON where `anyBody` is set */
  readonly body?: Readonly<Record<string, FieldSpec>>;
  /** Whether the body may be any JSON */
  readonly anyBody?: boolean;
  /** Whether it may take minutes, so that it has no time limit of its own */
  readonly slow?: boolean;
};

type Fields<T> = { readonly [Key in keyof Required<T>]: FieldSpec };

/** The newest version whose fields are known here; a newer VMM may be sent fields that the table lacks. */
export const newestKnownVersion = "1.17";

const always: FieldSpec = {};
const since = (...versions: string[]): FieldSpec => ({ since: versions });
const v1_14 = ["1.14.0"] as const;
const v1_16 = ["1.16.0"] as const;
const v1_17 = ["1.17.0"] as const;

const bucket: Fields<TokenBucketWire> = { size: always, refill_time: always, one_time_burst: always };
const limits: Fields<RateLimiterWire> = { bandwidth: { fields: bucket }, ops: { fields: bucket } };
const limiter: FieldSpec = { fields: limits };
const newLimiter: FieldSpec = { fields: limits, since: v1_16 };

const drive: Fields<DriveWire> = {
  drive_id: always,
  is_root_device: always,
  path_on_host: { path: (body) => (body["is_read_only"] === true ? "read" : "write") },
  is_read_only: always,
  partuuid: always,
  cache_type: always,
  io_engine: always,
  rate_limiter: limiter,
  socket: { path: "connect" },
};
const drivePatch: Fields<DrivePatchWire> = {
  drive_id: always,
  // The client knows, or asks, how the drive was made.
  path_on_host: { path: (body) => (body["is_read_only"] === true ? "read" : "write") },
  rate_limiter: limiter,
};
const pmem: Fields<PmemWire> = {
  id: always,
  path_on_host: { path: (body) => (body["read_only"] === true ? "read" : "write") },
  root_device: always,
  read_only: always,
  rate_limiter: newLimiter,
};
const pmemPatch: Fields<PmemPatchWire> = { id: always, rate_limiter: newLimiter };
const network: Fields<NetworkInterfaceWire> = {
  iface_id: always,
  host_dev_name: always,
  guest_mac: always,
  mtu: since("1.16.0"),
  rx_rate_limiter: limiter,
  tx_rate_limiter: limiter,
};
const networkPatch: Fields<NetworkInterfacePatchWire> = {
  iface_id: always,
  rx_rate_limiter: limiter,
  tx_rate_limiter: limiter,
};
const vsock: Fields<VsockWire> = { guest_cid: always, uds_path: { path: "bind" }, vsock_id: always };
const mmdsConfig: Fields<MmdsConfigWire> = {
  network_interfaces: always,
  version: always,
  ipv4_address: always,
  imds_compat: since("1.13.0"),
};
const balloon: Fields<BalloonWire> = {
  amount_mib: always,
  deflate_on_oom: always,
  stats_polling_interval_s: always,
  free_page_hinting: { since: v1_14 },
  free_page_reporting: { since: v1_14 },
};
const balloonPatch: Fields<BalloonPatchWire> = { amount_mib: always };
const statisticsPatch: Fields<BalloonStatisticsPatchWire> = { stats_polling_interval_s: always };
const hintingStart: Fields<HintingStartWire> = { acknowledge_on_stop: always };
const memory: Fields<MemoryHotplugWire> = {
  total_size_mib: always,
  block_size_mib: always,
  slot_size_mib: always,
};
const memoryPatch: Fields<MemoryHotplugPatchWire> = { requested_size_mib: always };
const machineConfig: Fields<MachineConfigWire> = {
  vcpu_count: always,
  mem_size_mib: always,
  smt: always,
  cpu_template: always,
  track_dirty_pages: always,
  huge_pages: { values: { Transparent: v1_17 } },
};
const bootSource: Fields<BootSourceWire> = {
  kernel_image_path: { path: "read" },
  initrd_path: { path: "read" },
  boot_args: always,
};
const cpuConfig: Fields<CpuConfigWire> = {
  kvm_capabilities: always,
  cpuid_modifiers: always,
  msr_modifiers: always,
  reg_modifiers: always,
  vcpu_features: always,
};
const entropy: Fields<EntropyWire> = { rate_limiter: limiter };
const serial: Fields<SerialWire> = {
  serial_out_path: { path: "output" },
  rate_limiter: { fields: bucket, since: v1_16 },
};
const logger: Fields<LoggerWire> = {
  log_path: { path: "output" },
  level: always,
  show_level: always,
  show_log_origin: always,
  module: always,
};
const metrics: Fields<MetricsWire> = {
  metrics_path: { path: "output" },
  emit_id: { since: v1_17 },
  properties: { since: v1_17 },
};
const action: Fields<ActionWire> = { action_type: always };
const vmState: Fields<VmStateWire> = { state: always };
const snapshotCreate: Fields<SnapshotCreateWire> = {
  snapshot_path: { path: "output" },
  mem_file_path: { path: "output" },
  snapshot_type: always,
};
const memoryBackend: Fields<MemoryBackendWire> = {
  backend_type: always,
  backend_path: { path: (body) => (body["backend_type"] === "Uffd" ? "connect" : "read") },
};
const snapshotLoad: Fields<SnapshotLoadWire> = {
  snapshot_path: { path: "read" },
  mem_backend: { fields: memoryBackend },
  mem_file_path: { path: "read" },
  resume_vm: always,
  track_dirty_pages: since("1.13.0"),
  enable_diff_snapshots: always,
  network_overrides: { since: ["1.12.0"], fields: { iface_id: always, host_dev_name: always } },
  vsock_override: { since: v1_16, fields: { uds_path: { path: "bind" } } },
  clock_realtime: since("1.14.4", "1.15.1", "1.16.0"),
  huge_pages: { since: v1_17 },
};

/** The name of an operation. */
export type OperationName =
  | "instanceInfo"
  | "version"
  | "vmConfig"
  | "startInstance"
  | "runAction"
  | "putBootSource"
  | "machineConfig"
  | "putMachineConfig"
  | "patchMachineConfig"
  | "putCpuConfig"
  | "putDrive"
  | "patchDrive"
  | "deleteDrive"
  | "putPmem"
  | "patchPmem"
  | "deletePmem"
  | "putNetworkInterface"
  | "patchNetworkInterface"
  | "deleteNetworkInterface"
  | "putVsock"
  | "balloon"
  | "putBalloon"
  | "patchBalloon"
  | "balloonStatistics"
  | "patchBalloonStatistics"
  | "startHinting"
  | "hintingStatus"
  | "stopHinting"
  | "putEntropy"
  | "putSerial"
  | "memoryHotplug"
  | "putMemoryHotplug"
  | "patchMemoryHotplug"
  | "putLogger"
  | "putMetrics"
  | "mmds"
  | "putMmds"
  | "patchMmds"
  | "putMmdsConfig"
  | "setVmState"
  | "createSnapshot"
  | "loadSnapshot";

/** Every operation of the API, by the name that it has in the client. */
export const operations: Readonly<Record<OperationName, OperationSpec>> = {
  instanceInfo: { method: "GET", path: "/", when: "any" },
  version: { method: "GET", path: "/version", when: "any" },
  vmConfig: { method: "GET", path: "/vm/config", when: "any" },
  startInstance: { method: "PUT", path: "/actions", when: "before", body: action },
  runAction: { method: "PUT", path: "/actions", when: "after", body: action },
  putBootSource: { method: "PUT", path: "/boot-source", when: "before", body: bootSource },
  machineConfig: { method: "GET", path: "/machine-config", when: "any" },
  putMachineConfig: { method: "PUT", path: "/machine-config", when: "before", body: machineConfig },
  patchMachineConfig: { method: "PATCH", path: "/machine-config", when: "before", body: machineConfig },
  putCpuConfig: { method: "PUT", path: "/cpu-config", when: "before", body: cpuConfig },
  putDrive: {
    method: "PUT",
    path: "/drives/{}",
    id: "drive_id",
    when: "before",
    afterSince: v1_16,
    body: drive,
  },
  patchDrive: { method: "PATCH", path: "/drives/{}", id: "drive_id", when: "after", body: drivePatch },
  deleteDrive: { method: "DELETE", path: "/drives/{}", when: "after", since: v1_16 },
  putPmem: {
    method: "PUT",
    path: "/pmem/{}",
    id: "id",
    when: "before",
    since: v1_14,
    afterSince: v1_16,
    body: pmem,
  },
  patchPmem: {
    method: "PATCH",
    path: "/pmem/{}",
    id: "id",
    when: "after",
    since: v1_16,
    body: pmemPatch,
  },
  deletePmem: { method: "DELETE", path: "/pmem/{}", when: "after", since: v1_16 },
  putNetworkInterface: {
    method: "PUT",
    path: "/network-interfaces/{}",
    id: "iface_id",
    when: "before",
    afterSince: v1_16,
    body: network,
  },
  patchNetworkInterface: {
    method: "PATCH",
    path: "/network-interfaces/{}",
    id: "iface_id",
    when: "after",
    body: networkPatch,
  },
  deleteNetworkInterface: {
    method: "DELETE",
    path: "/network-interfaces/{}",
    when: "after",
    since: v1_16,
  },
  putVsock: { method: "PUT", path: "/vsock", when: "before", body: vsock },
  balloon: { method: "GET", path: "/balloon", when: "any" },
  putBalloon: { method: "PUT", path: "/balloon", when: "before", body: balloon },
  patchBalloon: { method: "PATCH", path: "/balloon", when: "after", body: balloonPatch },
  balloonStatistics: { method: "GET", path: "/balloon/statistics", when: "after" },
  patchBalloonStatistics: {
    method: "PATCH",
    path: "/balloon/statistics",
    when: "after",
    body: statisticsPatch,
  },
  startHinting: {
    method: "PATCH",
    path: "/balloon/hinting/start",
    when: "after",
    since: v1_14,
    body: hintingStart,
  },
  hintingStatus: { method: "GET", path: "/balloon/hinting/status", when: "after", since: v1_14 },
  stopHinting: { method: "PATCH", path: "/balloon/hinting/stop", when: "after", since: v1_14 },
  putEntropy: { method: "PUT", path: "/entropy", when: "before", body: entropy },
  putSerial: { method: "PUT", path: "/serial", when: "before", since: v1_14, body: serial },
  memoryHotplug: { method: "GET", path: "/hotplug/memory", when: "after", since: v1_14 },
  putMemoryHotplug: {
    method: "PUT",
    path: "/hotplug/memory",
    when: "before",
    since: v1_14,
    body: memory,
  },
  patchMemoryHotplug: {
    method: "PATCH",
    path: "/hotplug/memory",
    when: "after",
    since: v1_14,
    body: memoryPatch,
  },
  putLogger: { method: "PUT", path: "/logger", when: "before", body: logger },
  putMetrics: { method: "PUT", path: "/metrics", when: "before", body: metrics },
  mmds: { method: "GET", path: "/mmds", when: "any" },
  putMmds: { method: "PUT", path: "/mmds", when: "any", anyBody: true },
  patchMmds: { method: "PATCH", path: "/mmds", when: "any", anyBody: true },
  putMmdsConfig: { method: "PUT", path: "/mmds/config", when: "before", body: mmdsConfig },
  setVmState: { method: "PATCH", path: "/vm", when: "after", body: vmState },
  createSnapshot: {
    method: "PUT",
    path: "/snapshot/create",
    when: "paused",
    body: snapshotCreate,
    slow: true,
  },
  loadSnapshot: { method: "PUT", path: "/snapshot/load", when: "before", body: snapshotLoad, slow: true },
};
