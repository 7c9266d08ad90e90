/** Bodies of the device endpoints, spelled as on the wire. Fields newer than 1.7 say since when: bodies are strict, an unknown field is a 400. */

/** `size` tokens (bytes or operations) refilled every `refill_time` ms. In a PATCH, size 0 with refill 0 switches the bucket off. */
export type TokenBucketWire = {
  readonly size: number;
  /** ms */
  readonly refill_time: number;
  readonly one_time_burst?: number;
};

export type RateLimiterWire = { readonly bandwidth?: TokenBucketWire; readonly ops?: TokenBucketWire };

export type DriveWire = {
  /** Letters, digits and `_`; equals the id in the path */
  readonly drive_id: string;
  readonly is_root_device: boolean;
  /** Opened at once; exclusive with `socket` */
  readonly path_on_host?: string;
  /** @default false */
  readonly is_read_only?: boolean;
  readonly partuuid?: string;
  /** @default "Unsafe" (no flush) */
  readonly cache_type?: "Unsafe" | "Writeback";
  /** @default "Sync" */
  readonly io_engine?: "Sync" | "Async";
  readonly rate_limiter?: RateLimiterWire;
  /** vhost-user-blk socket */
  readonly socket?: string;
};

/** After start: another backing file, other limits. Whether it is read-only cannot change. */
export type DrivePatchWire = {
  readonly drive_id: string;
  readonly path_on_host?: string;
  readonly rate_limiter?: RateLimiterWire;
};

export type NetworkInterfaceWire = {
  readonly iface_id: string;
  /** A tap in the VMM's network namespace, opened at once */
  readonly host_dev_name: string;
  readonly guest_mac?: string;
  /** 68..65535; since 1.16 */
  readonly mtu?: number;
  readonly rx_rate_limiter?: RateLimiterWire;
  readonly tx_rate_limiter?: RateLimiterWire;
};

export type NetworkInterfacePatchWire = {
  readonly iface_id: string;
  readonly rx_rate_limiter?: RateLimiterWire;
  readonly tx_rate_limiter?: RateLimiterWire;
};

export type VsockWire = {
  /** >= 3; not checked by the VMM */
  readonly guest_cid: number;
  /** Bound at once; must not exist */
  readonly uds_path: string;
};

export type EntropyWire = { readonly rate_limiter?: RateLimiterWire };

export type BalloonWire = {
  /** MiB, at most the machine's memory */
  readonly amount_mib: number;
  readonly deflate_on_oom: boolean;
  /** s; 0 = no statistics, and it cannot be switched on later */
  readonly stats_polling_interval_s?: number;
  /** since 1.14 */
  readonly free_page_hinting?: boolean;
  /** since 1.14 */
  readonly free_page_reporting?: boolean;
};

export type BalloonStatisticsWire = {
  readonly target_pages: number;
  readonly actual_pages: number;
  readonly target_mib: number;
  readonly actual_mib: number;
  readonly swap_in?: number;
  readonly swap_out?: number;
  readonly major_faults?: number;
  readonly minor_faults?: number;
  readonly free_memory?: number;
  readonly total_memory?: number;
  readonly available_memory?: number;
  readonly disk_caches?: number;
  readonly hugetlb_allocations?: number;
  readonly hugetlb_failures?: number;
};

/** since 1.14; the limiter since 1.16. Cannot be given in a config file and is not kept in snapshots. */
export type SerialWire = { readonly serial_out_path?: string; readonly rate_limiter?: TokenBucketWire };

export type MmdsConfigWire = {
  /** Ids of interfaces that exist already */
  readonly network_interfaces: readonly string[];
  /** @default "V1" */
  readonly version?: "V1" | "V2";
  /** @default "169.254.169.254" */
  readonly ipv4_address?: string;
  /** since 1.13 */
  readonly imds_compat?: boolean;
};
