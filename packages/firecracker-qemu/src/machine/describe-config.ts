// GET /machine-config and GET /vm/config: what was configured, field by field in Firecracker's order, as a config file takes it.
import type { RateLimiter, TokenBucket } from "../schema/bodies.ts";
import { effectiveLimiter } from "./rate-limiter.ts";
import type { VmConfig } from "./vm-config.ts";

function bucketOrNull(bucket: TokenBucket | undefined): object | null {
  if (bucket === undefined) return null;
  const { size, one_time_burst, refill_time } = bucket;
  return { size, one_time_burst: one_time_burst || null, refill_time };
}

function limiterOrNull(limiter: RateLimiter | undefined): object | null {
  const effective = effectiveLimiter(limiter);
  if (effective === undefined) return null;
  return { bandwidth: bucketOrNull(effective.bandwidth), ops: bucketOrNull(effective.ops) };
}

/** As GET /machine-config shows it. */
export function describeMachine({ machine }: VmConfig): object {
  const { vcpu_count, mem_size_mib, smt, cpu_template, track_dirty_pages, huge_pages } = machine;
  const template = cpu_template === undefined ? {} : { cpu_template };
  return { vcpu_count, mem_size_mib, smt, ...template, track_dirty_pages, huge_pages };
}

/** As GET /vm/config shows it. */
export function describeConfig(config: VmConfig): object {
  const { bootSource, vsock, entropy, balloon, mmds, memoryHotplug } = config;
  return {
    balloon: balloon ?? null,
    drives: config.drives.map((drive) => ({
      drive_id: drive.drive_id,
      partuuid: drive.partuuid ?? null,
      is_root_device: drive.is_root_device,
      cache_type: drive.cache_type,
      is_read_only: drive.is_read_only ?? false,
      path_on_host: drive.path_on_host ?? null,
      rate_limiter: limiterOrNull(drive.rate_limiter),
      io_engine: drive.io_engine ?? "Sync",
      socket: null,
    })),
    "boot-source": {
      kernel_image_path: bootSource?.kernel_image_path ?? "",
      initrd_path: bootSource?.initrd_path ?? null,
      boot_args: bootSource?.boot_args ?? null,
    },
    "cpu-config": null,
    logger: null,
    "machine-config": describeMachine(config),
    metrics: null,
    "mmds-config":
      mmds === undefined
        ? null
        : {
            version: mmds.version,
            network_interfaces: config.interfaces
              .map((one) => one.iface_id)
              .filter((id) => mmds.network_interfaces.includes(id)),
            ipv4_address: mmds.ipv4_address ?? "169.254.169.254",
            imds_compat: mmds.imds_compat,
          },
    "network-interfaces": config.interfaces.map((device) => ({
      iface_id: device.iface_id,
      host_dev_name: device.host_dev_name,
      guest_mac: device.guest_mac ?? null,
      mtu: device.mtu ?? null,
      rx_rate_limiter: limiterOrNull(device.rx_rate_limiter),
      tx_rate_limiter: limiterOrNull(device.tx_rate_limiter),
    })),
    vsock: vsock === undefined ? null : { guest_cid: vsock.guest_cid, uds_path: vsock.uds_path },
    entropy: entropy === undefined ? null : { rate_limiter: limiterOrNull(entropy.rate_limiter) },
    pmem: [],
    "memory-hotplug": memoryHotplug ?? null,
  };
}
