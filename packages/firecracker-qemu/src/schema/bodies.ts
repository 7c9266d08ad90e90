// The request bodies, field by field as Firecracker 1.17 reads them. What QEMU cannot do is decoded all the same, so
// that a wrong body is told from an unsupported one; the refusal is the machine's.
import { parseIpv4, parseLevelName, parseMac } from "./field-syntax.ts";
import {
  defaulted,
  dictionary,
  flag,
  list,
  nullable,
  object,
  openObject,
  optional,
  parsed,
  required,
  text,
  unsigned,
  variant,
} from "./strict-json.ts";

const u8 = unsigned("u8");
const u16 = unsigned("u16");
const u32 = unsigned("u32");
const u64 = unsigned("u64");

const tokenBucket = openObject({
  size: required(u64),
  one_time_burst: optional(u64),
  refill_time: required(u64),
});
const rateLimiter = object({ bandwidth: optional(tokenBucket), ops: optional(tokenBucket) });

const cpuTemplate = variant("C3", "T2", "T2S", "None", "T2CL", "T2A");
const hugePages = variant("None", "Transparent", "2M");

/** PUT /machine-config */
export const machineConfigBody = object({
  vcpu_count: required(u8),
  mem_size_mib: required(u64),
  smt: defaulted(flag, false),
  cpu_template: defaulted(nullable(cpuTemplate), undefined),
  track_dirty_pages: defaulted(flag, false),
  huge_pages: defaulted(hugePages, "None"),
});

/** PATCH /machine-config */
export const machineConfigPatchBody = object({
  vcpu_count: defaulted(nullable(u8), undefined),
  mem_size_mib: defaulted(nullable(u64), undefined),
  smt: defaulted(nullable(flag), undefined),
  cpu_template: defaulted(nullable(cpuTemplate), undefined),
  track_dirty_pages: defaulted(nullable(flag), undefined),
  huge_pages: defaulted(nullable(hugePages), undefined),
});

/** PUT /boot-source */
export const bootSourceBody = object({
  kernel_image_path: required(text),
  initrd_path: optional(text),
  boot_args: optional(text),
});

/** PUT /drives/ID */
export const driveBody = object({
  drive_id: required(text),
  partuuid: optional(text),
  is_root_device: required(flag),
  cache_type: defaulted(variant("Unsafe", "Writeback"), "Unsafe"),
  is_read_only: optional(flag),
  path_on_host: optional(text),
  rate_limiter: optional(rateLimiter),
  io_engine: optional(variant("Async", "Sync")),
  socket: optional(text),
});

/** PATCH /drives/ID */
export const drivePatchBody = object({
  drive_id: required(text),
  path_on_host: optional(text),
  rate_limiter: optional(rateLimiter),
});

/** PUT /pmem/ID */
export const pmemBody = object({
  id: required(text),
  path_on_host: required(text),
  root_device: defaulted(flag, false),
  read_only: defaulted(flag, false),
  rate_limiter: optional(rateLimiter),
});

/** PATCH /pmem/ID */
export const pmemPatchBody = object({ id: required(text), rate_limiter: optional(rateLimiter) });

/** PUT /network-interfaces/ID */
export const networkInterfaceBody = object({
  iface_id: required(text),
  host_dev_name: required(text),
  guest_mac: optional(parsed("a MAC address: six hexadecimal bytes with colons", parseMac)),
  mtu: optional(u16),
  rx_rate_limiter: optional(rateLimiter),
  tx_rate_limiter: optional(rateLimiter),
});

/** PATCH /network-interfaces/ID */
export const networkInterfacePatchBody = object({
  iface_id: required(text),
  rx_rate_limiter: optional(rateLimiter),
  tx_rate_limiter: optional(rateLimiter),
});

/** PUT /vsock */
export const vsockBody = object({
  vsock_id: defaulted(nullable(text), undefined),
  guest_cid: required(u32),
  uds_path: required(text),
});

/** PUT /entropy */
export const entropyBody = object({ rate_limiter: optional(rateLimiter) });

/** PUT /serial */
export const serialBody = object({ serial_out_path: optional(text), rate_limiter: optional(tokenBucket) });

/** PUT /actions */
export const actionBody = object({
  action_type: required(variant("FlushMetrics", "InstanceStart", "SendCtrlAltDel")),
});

/** PATCH /vm */
export const vmStateBody = object({ state: required(variant("Paused", "Resumed")) });

/** PUT /logger */
export const loggerBody = object({
  log_path: optional(text),
  level: optional(parsed("a level: Error, Warning, Info, Debug, Trace or Off", parseLevelName)),
  show_level: optional(flag),
  show_log_origin: optional(flag),
  module: optional(text),
});

/** PUT /metrics */
export const metricsBody = openObject({
  metrics_path: required(text),
  emit_id: defaulted(flag, false),
  properties: defaulted(nullable(dictionary(text)), undefined),
});

/** PUT /balloon */
export const balloonBody = object({
  amount_mib: required(u32),
  deflate_on_oom: required(flag),
  stats_polling_interval_s: defaulted(u16, 0),
  free_page_hinting: defaulted(flag, false),
  free_page_reporting: defaulted(flag, false),
});

/** PATCH /balloon */
export const balloonPatchBody = object({ amount_mib: required(u32) });

/** PATCH /balloon/statistics */
export const balloonStatisticsPatchBody = object({ stats_polling_interval_s: required(u16) });

/** PATCH /balloon/hinting/start */
export const hintingStartBody = openObject({ acknowledge_on_stop: defaulted(flag, true) });

/** PUT /hotplug/memory */
export const memoryHotplugBody = object({
  total_size_mib: required(u32),
  block_size_mib: defaulted(u32, 2),
  slot_size_mib: defaulted(u32, 128),
});

/** PATCH /hotplug/memory */
export const memoryHotplugPatchBody = object({ requested_size_mib: required(u32) });

/** PUT /mmds/config */
export const mmdsConfigBody = object({
  version: defaulted(variant("V1", "V2"), "V1"),
  network_interfaces: required(list(text)),
  ipv4_address: optional(parsed("an IPv4 address", parseIpv4)),
  imds_compat: defaulted(flag, false),
});

/** PUT /snapshot/create */
export const snapshotCreateBody = object({
  snapshot_type: defaulted(variant("Diff", "Full"), "Full"),
  snapshot_path: required(text),
  mem_file_path: required(text),
});

/** PUT /snapshot/load */
export const snapshotLoadBody = object({
  snapshot_path: required(text),
  mem_file_path: optional(text),
  mem_backend: optional(
    object({ backend_path: required(text), backend_type: required(variant("File", "Uffd")) }),
  ),
  enable_diff_snapshots: defaulted(flag, false),
  track_dirty_pages: defaulted(flag, false),
  resume_vm: defaulted(flag, false),
  network_overrides: defaulted(
    list(openObject({ iface_id: required(text), host_dev_name: required(text) })),
    [],
  ),
  vsock_override: optional(openObject({ uds_path: required(text) })),
  clock_realtime: defaulted(flag, false),
  huge_pages: defaulted(variant("Snapshot", "None", "Transparent", "2M"), "Snapshot"),
});

export type RateLimiter = ReturnType<typeof rateLimiter>;
export type TokenBucket = ReturnType<typeof tokenBucket>;
export type MachineConfig = ReturnType<typeof machineConfigBody>;
export type MachineConfigPatch = ReturnType<typeof machineConfigPatchBody>;
export type BootSource = ReturnType<typeof bootSourceBody>;
export type Drive = ReturnType<typeof driveBody>;
export type DrivePatch = ReturnType<typeof drivePatchBody>;
export type Pmem = ReturnType<typeof pmemBody>;
export type PmemPatch = ReturnType<typeof pmemPatchBody>;
export type NetworkInterface = ReturnType<typeof networkInterfaceBody>;
export type NetworkInterfacePatch = ReturnType<typeof networkInterfacePatchBody>;
export type Vsock = ReturnType<typeof vsockBody>;
export type Entropy = ReturnType<typeof entropyBody>;
export type Serial = ReturnType<typeof serialBody>;
export type Logger = ReturnType<typeof loggerBody>;
export type Metrics = ReturnType<typeof metricsBody>;
export type Balloon = ReturnType<typeof balloonBody>;
export type HintingStart = ReturnType<typeof hintingStartBody>;
export type MemoryHotplug = ReturnType<typeof memoryHotplugBody>;
export type MmdsConfig = ReturnType<typeof mmdsConfigBody>;
export type SnapshotCreate = ReturnType<typeof snapshotCreateBody>;
export type SnapshotLoad = ReturnType<typeof snapshotLoadBody>;
