// The request bodies, field by field as Firecracker 1.16 reads them. What QEMU cannot do is decoded all the same, so
// that a wrong body is told from an unsupported one; the refusal is the machine's.
import { defaulted, flag, list, object, optional, required, text, unsigned, variant } from "./strict-json.ts";

const u8 = unsigned("u8");
const u16 = unsigned("u16");
const u32 = unsigned("u32");
const u64 = unsigned("u64");

const tokenBucket = object({
  size: required(u64),
  refill_time: required(u64),
  one_time_burst: optional(u64),
});
const rateLimiter = object({ bandwidth: optional(tokenBucket), ops: optional(tokenBucket) });

const cpuTemplate = variant("C3", "T2", "T2S", "None", "T2CL", "T2A", "V1N1");
const hugePages = variant("None", "Transparent", "2M");

/** PUT /machine-config */
export const machineConfigBody = object({
  vcpu_count: required(u8),
  mem_size_mib: required(u32),
  smt: defaulted(flag, false),
  cpu_template: optional(cpuTemplate),
  track_dirty_pages: defaulted(flag, false),
  huge_pages: defaulted(hugePages, "None"),
});

/** PATCH /machine-config */
export const machineConfigPatchBody = object({
  vcpu_count: optional(u8),
  mem_size_mib: optional(u32),
  smt: optional(flag),
  cpu_template: optional(cpuTemplate),
  track_dirty_pages: optional(flag),
  huge_pages: optional(hugePages),
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

/** PUT /network-interfaces/ID */
export const networkInterfaceBody = object({
  iface_id: required(text),
  host_dev_name: required(text),
  guest_mac: optional(text),
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
  vsock_id: optional(text),
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
  level: optional(text),
  show_level: optional(flag),
  show_log_origin: optional(flag),
  module: optional(text),
});

/** PUT /metrics */
export const metricsBody = object({ metrics_path: required(text) });

/** `--config-file`: the devices and settings of a machine that starts at once */
export const configFileBody = object({
  "boot-source": required(bootSourceBody),
  drives: required(list(driveBody)),
  "machine-config": optional(machineConfigBody),
  "network-interfaces": optional(list(networkInterfaceBody)),
  vsock: optional(vsockBody),
  entropy: optional(entropyBody),
  logger: optional(loggerBody),
  metrics: optional(metricsBody),
});

export type RateLimiter = ReturnType<typeof rateLimiter>;
export type TokenBucket = ReturnType<typeof tokenBucket>;
export type MachineConfig = ReturnType<typeof machineConfigBody>;
export type MachineConfigPatch = ReturnType<typeof machineConfigPatchBody>;
export type BootSource = ReturnType<typeof bootSourceBody>;
export type Drive = ReturnType<typeof driveBody>;
export type DrivePatch = ReturnType<typeof drivePatchBody>;
export type NetworkInterface = ReturnType<typeof networkInterfaceBody>;
export type NetworkInterfacePatch = ReturnType<typeof networkInterfacePatchBody>;
export type Vsock = ReturnType<typeof vsockBody>;
export type Entropy = ReturnType<typeof entropyBody>;
export type Serial = ReturnType<typeof serialBody>;
export type ConfigFile = ReturnType<typeof configFileBody>;
