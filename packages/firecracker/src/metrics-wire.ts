/**
 * A line of Firecracker's metrics, as on the wire (1.17). Counters count from the line before; `*_us` values are the
 * last ones. The main groups are typed, the others are numbers by name.
 */

/** Times of one kind since the line before. */
export type LatencyWire = {
  /** Shortest */
  readonly min_us: number;
  /** Longest */
  readonly max_us: number;
  /** All together */
  readonly sum_us: number;
};

/** Numbers by name. */
export type MetricGroupWire = { readonly [name: string]: number | LatencyWire };

/** Of one drive (`block_ID`), or of all (`block`). */
export type BlockMetricsWire = MetricGroupWire & {
  /** bytes */
  readonly read_bytes: number;
  /** bytes */
  readonly write_bytes: number;
  /** Requests */
  readonly read_count: number;
  /** Requests */
  readonly write_count: number;
  /** Requests */
  readonly flush_count: number;
  /** How long reads took */
  readonly read_agg: LatencyWire;
  /** How long writes took */
  readonly write_agg: LatencyWire;
  /** Times the limiter stopped it */
  readonly rate_limiter_throttled_events: number;
  /** Requests that failed */
  readonly execute_fails: number;
  /** PATCHes */
  readonly update_count: number;
};

/** Of one interface (`net_ID`), or of all (`net`). Seen from the guest. */
export type NetMetricsWire = MetricGroupWire & {
  /** bytes received */
  readonly rx_bytes_count: number;
  /** Packets received */
  readonly rx_packets_count: number;
  /** Failed receptions */
  readonly rx_fails: number;
  /** Times the limiter stopped it */
  readonly rx_rate_limiter_throttled: number;
  /** bytes sent */
  readonly tx_bytes_count: number;
  /** Packets sent */
  readonly tx_packets_count: number;
  /** Failed sendings */
  readonly tx_fails: number;
  /** Times the limiter stopped it */
  readonly tx_rate_limiter_throttled: number;
  /** Packets with a MAC that is not the interface's */
  readonly tx_spoofed_mac_count: number;
};

/** Of the vsock device. Seen from the guest. */
export type VsockMetricsWire = MetricGroupWire & {
  /** bytes received */
  readonly rx_bytes_count: number;
  /** bytes sent */
  readonly tx_bytes_count: number;
  /** Connections made */
  readonly conns_added: number;
  /** Connections cut */
  readonly conns_killed: number;
  /** Connections ended */
  readonly conns_removed: number;
};

/** Of the vCPUs' exits. */
export type VcpuMetricsWire = MetricGroupWire & {
  /** Port reads */
  readonly exit_io_in: number;
  /** Port writes */
  readonly exit_io_out: number;
  /** Device memory reads */
  readonly exit_mmio_read: number;
  /** Device memory writes */
  readonly exit_mmio_write: number;
  /** Exits that could not be handled */
  readonly failures: number;
  /** How long port reads took */
  readonly exit_io_in_agg: LatencyWire;
  /** How long port writes took */
  readonly exit_io_out_agg: LatencyWire;
  /** How long device memory reads took */
  readonly exit_mmio_read_agg: LatencyWire;
  /** How long device memory writes took */
  readonly exit_mmio_write_agg: LatencyWire;
};

/** How long the last ones took, µs; 0 = there was none. */
export type LatenciesWire = MetricGroupWire & {
  /** µs */
  readonly full_create_snapshot: number;
  /** µs */
  readonly diff_create_snapshot: number;
  /** µs */
  readonly load_snapshot: number;
  /** µs */
  readonly pause_vm: number;
  /** µs */
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
  readonly api_server: MetricGroupWire & {
    /** From the start of the process to the API */
    readonly process_startup_time_us: number;
  };
  /** The balloon */
  readonly balloon: MetricGroupWire;
  /** All drives together */
  readonly block: BlockMetricsWire;
  /** All interfaces together */
  readonly net: NetMetricsWire;
  /** The vsock device */
  readonly vsock: VsockMetricsWire;
  /** All vCPUs together */
  readonly vcpu: VcpuMetricsWire;
  /** Slow operations */
  readonly latencies_us: LatenciesWire;
  /** What could not be written */
  readonly logger: MetricGroupWire & {
    /** Records of metrics */
    readonly missed_metrics_count: number;
    /** Lines of the log */
    readonly missed_log_count: number;
  };
  /** The VMM */
  readonly vmm: MetricGroupWire & {
    /** Panics */
    readonly panic_count: number;
  };
  /** The system call filter */
  readonly seccomp: MetricGroupWire & {
    /** System calls it stopped */
    readonly num_faults: number;
  };
  /** One drive, by its id */
  readonly [drive: `block_${string}`]: BlockMetricsWire;
  /** One interface, by its id */
  readonly [iface: `net_${string}`]: NetMetricsWire;
  /** deprecated_api, get_api_requests, put_api_requests, mmds, signals, entropy, interrupts and the like */
  readonly [group: string]: MetricGroupWire | Readonly<Record<string, string>> | number | string | undefined;
};
