/** Bodies of the block and pmem endpoints, spelled as on the wire. */
import type { RateLimiterWire } from "./rate-limit-wire.ts";

/** A virtio-blk drive. After start (1.16+, `--enable-pci`) a PUT plugs it in; the guest has to rescan its PCI bus. */
export type DriveWire = {
  /** Letters, digits and `_`; not visible in the guest */
  readonly drive_id: string;
  /** Becomes /dev/vda and the kernel's `root=`; at most one */
  readonly is_root_device: boolean;
  /** File or block device, opened at once; exclusive with `socket` */
  readonly path_on_host?: string;
  /** @default false */
  readonly is_read_only?: boolean;
  /** Partition of a root device, for `root=PARTUUID=` */
  readonly partuuid?: string;
  /** Unsafe: the guest's flushes do nothing. @default "Unsafe" */
  readonly cache_type?: "Unsafe" | "Writeback";
  /** Async is io_uring, a preview. @default "Sync" */
  readonly io_engine?: "Sync" | "Async";
  /** Limits; in a PATCH, absent buckets stay as they are */
  readonly rate_limiter?: RateLimiterWire;
  /** Socket of a vhost-user-blk backend (preview); no limits, no snapshots */
  readonly socket?: string;
};

/** After start: another backing file, other limits; the id alone has a vhost-user drive read its size again. Read-only stays. */
export type DrivePatchWire = {
  /** Of a drive that is there */
  readonly drive_id: string;
  /** Opened at once; the guest sees the new size, so nothing of the old file may be mounted */
  readonly path_on_host?: string;
  /** Limits; in a PATCH, absent buckets stay as they are */
  readonly rate_limiter?: RateLimiterWire;
};

/** A virtio-pmem device, since 1.14; after start (1.16+, PCI) a PUT plugs it in. */
export type PmemWire = {
  /** Letters, digits and `_` */
  readonly id: string;
  /** Mapped at start, or at once when plugged in */
  readonly path_on_host: string;
  /** @default false */
  readonly root_device?: boolean;
  /** @default false */
  readonly read_only?: boolean;
  /** Of flushes; since 1.16 */
  readonly rate_limiter?: RateLimiterWire;
};

/** Other limits for a pmem device, after start; since 1.16. */
export type PmemPatchWire = {
  /** Of a device that is there */
  readonly id: string;
  /** Limits; absent buckets stay as they are */
  readonly rate_limiter?: RateLimiterWire;
};
