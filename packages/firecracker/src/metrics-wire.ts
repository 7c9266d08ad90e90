/**
 * A line of Firecracker's metrics, as on the wire (1.17). Counters count from the line before; `*_us` values are the
 * last ones. The main groups are typed, the others are numbers by name.
 */

/** Times of one kind since the line before. */
export type LatencyWire = { readonly min_us: number; readonly max_us: number; readonly sum_us: number };

/** Numbers by name. */
export type MetricGroupWire = { readonly [name: string]: number | LatencyWire };

/** Of one drive (`block_ID`), or of all (`block`). */
export type BlockMetricsWire = MetricGroupWire & {
  readonly read_bytes: number;
  readonly write_bytes: number;
  readonly read_count: number;
  readonly write_count: number;
  readonly flush_count: number;
  readonly read_agg: LatencyWire;
  readonly write_agg: LatencyWire;
  /** Times the limiter stopped it */
  readonly rate_limiter_throttled_events: number;
  readonly execute_fails: number;
  readonly update_count: number;
};

/** Of one interface (`net_ID`), or of all (`net`). Seen from the guest. */
export type NetMetricsWire = MetricGroupWire & {
  readonly rx_bytes_count: number;
  readonly rx_packets_count: number;
  readonly rx_fails: number;
  /** Times the limiter stopped it */
  readonly rx_rate_limiter_throttled: number;
  readonly tx_bytes_count: number;
  readonly tx_packets_count: number;
  readonly tx_fails: number;
  /** Times the limiter stopped it */
  readonly tx_rate_limiter_throttled: number;
  readonly tx_spoofed_mac_count: number;
};

/** Of the vsock device. Seen from the guest. */
export type VsockMetricsWire = MetricGroupWire & {
  readonly rx_bytes_count: number;
  readonly tx_bytes_count: number;
  readonly conns_added: number;
  readonly conns_killed: number;
  readonly conns_removed: number;
};

/** Of the vCPUs' exits. */
export type VcpuMetricsWire = MetricGroupWire & {
  readonly exit_io_in: number;
  readonly exit_io_out: number;
  readonly exit_mmio_read: number;
  readonly exit_mmio_write: number;
  readonly failures: number;
  readonly exit_io_in_agg: LatencyWire;
  readonly exit_io_out_agg: LatencyWire;
  readonly exit_mmio_read_agg: LatencyWire;
  readonly exit_mmio_write_agg: LatencyWire;
};

/** How long the last ones took, µs; 0 = there was none. */
export type LatenciesWire = MetricGroupWire & {
  readonly full_create_snapshot: number;
  readonly diff_create_snapshot: number;
  readonly load_snapshot: number;
  readonly pause_vm: number;
  readonly resume_vm: number;
};

/** One line. */
export type MetricsRecordWire = {
  /** ms since 1970 */
  readonly utc_timestamp_ms: number;
  /** With `emit_id` */
  readonly id?: string;
  /** With `properties` */
  readonly properties?: Readonly<Record<string, string>>;
  /** µs from the start of the process */
  readonly api_server: MetricGroupWire & { readonly process_startup_time_us: number };
  readonly balloon: MetricGroupWire;
  readonly block: BlockMetricsWire;
  readonly net: NetMetricsWire;
  readonly vsock: VsockMetricsWire;
  readonly vcpu: VcpuMetricsWire;
  readonly latencies_us: LatenciesWire;
  readonly logger: MetricGroupWire & {
    readonly missed_metrics_count: number;
    readonly missed_log_count: number;
  };
  readonly vmm: MetricGroupWire & { readonly panic_count: number };
  readonly seccomp: MetricGroupWire & { readonly num_faults: number };
  readonly [drive: `block_${string}`]: BlockMetricsWire;
  readonly [iface: `net_${string}`]: NetMetricsWire;
  /** deprecated_api, get_api_requests, put_api_requests, mmds, signals, entropy, interrupts and the like */
  readonly [group: string]: MetricGroupWire | Readonly<Record<string, string>> | number | string | undefined;
};
