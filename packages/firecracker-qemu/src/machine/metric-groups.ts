// The metrics' groups and fields, as Firecracker 1.17 writes them: every one is there, zero when QEMU does not count it.

const spaced = (text: string): readonly string[] => text.trim().split(/\s+/);

const block =
  spaced(`activate_fails cfg_fails no_avail_buffer event_fails execute_fails invalid_reqs_count flush_count
  queue_event_count rate_limiter_event_count update_count update_fails read_bytes write_bytes read_count write_count read_agg
  write_agg rate_limiter_throttled_events io_engine_throttled_events remaining_reqs_count`);

const net =
  spaced(`activate_fails cfg_fails no_rx_avail_buffer no_tx_avail_buffer event_fails rx_queue_event_count
  rx_event_rate_limiter_count rx_rate_limiter_throttled rx_tap_event_count rx_bytes_count rx_packets_count rx_fails rx_count
  tap_read_fails tap_write_fails tap_write_agg tx_bytes_count tx_malformed_frames tx_fails tx_count tx_packets_count
  tx_queue_event_count tx_rate_limiter_event_count tx_rate_limiter_throttled tx_spoofed_mac_count tx_remaining_reqs_count`);

const before: Readonly<Record<string, readonly string[]>> = {
  api_server: spaced("process_startup_time_us process_startup_time_cpu_us"),
  balloon:
    spaced(`activate_fails inflate_count stats_updates_count stats_update_fails deflate_count event_fails
    free_page_report_count free_page_report_freed free_page_report_fails free_page_hint_count free_page_hint_freed
    free_page_hint_fails`),
};

const between: Readonly<Record<string, readonly string[]>> = {
  deprecated_api: spaced("deprecated_http_api_calls"),
  get_api_requests: spaced(
    "instance_info_count machine_cfg_count mmds_count vmm_version_count hotplug_memory_count",
  ),
  i8042: spaced("error_count missed_read_count missed_write_count read_count reset_count write_count"),
  uart: spaced(`error_count flush_count missed_read_count missed_write_count read_count write_count
    rate_limiter_dropped_bytes`),
  latencies_us:
    spaced(`full_create_snapshot diff_create_snapshot load_snapshot pause_vm resume_vm vmm_full_create_snapshot
    vmm_diff_create_snapshot vmm_load_snapshot vmm_pause_vm vmm_resume_vm`),
  logger: spaced("missed_metrics_count metrics_fails missed_log_count rate_limited_log_count"),
  mmds: spaced(`rx_accepted rx_accepted_err rx_accepted_unusual rx_bad_eth rx_invalid_token rx_no_token rx_count tx_bytes
    tx_count tx_errors tx_frames connections_created connections_destroyed`),
};

const after: Readonly<Record<string, readonly string[]>> = {
  patch_api_requests:
    spaced(`drive_count drive_fails network_count network_fails machine_cfg_count machine_cfg_fails
    mmds_count mmds_fails hotplug_memory_count hotplug_memory_fails pmem_count pmem_fails`),
  put_api_requests:
    spaced(`actions_count actions_fails boot_source_count boot_source_fails drive_count drive_fails
    logger_count logger_fails machine_cfg_count machine_cfg_fails cpu_cfg_count cpu_cfg_fails metrics_count metrics_fails
    network_count network_fails mmds_count mmds_fails vsock_count vsock_fails pmem_count pmem_fails serial_count serial_fails
    hotplug_memory_count hotplug_memory_fails`),
  seccomp: spaced("num_faults"),
  vcpu: spaced(`exit_io_in exit_io_out exit_mmio_read exit_mmio_write failures kvmclock_ctrl_fails exit_io_in_agg
    exit_io_out_agg exit_mmio_read_agg exit_mmio_write_agg`),
  vmm: spaced("panic_count"),
  signals: spaced("sigbus sigsegv sigxfsz sigxcpu sigpipe sighup sigill"),
  vsock:
    spaced(`activate_fails cfg_fails rx_queue_event_fails tx_queue_event_fails ev_queue_event_fails muxer_event_fails
    conn_event_fails rx_queue_event_count tx_queue_event_count rx_bytes_count tx_bytes_count rx_packets_count
    tx_packets_count conns_added conns_killed conns_removed killq_resync tx_flush_fails tx_write_fails rx_read_fails`),
  entropy: spaced(`activate_fails entropy_event_fails entropy_event_count entropy_bytes host_rng_fails
    entropy_rate_limiter_throttled rate_limiter_event_count`),
  pmem: spaced(`activate_fails cfg_fails event_fails queue_event_count rate_limiter_throttled_events
    rate_limiter_event_count`),
  interrupts: spaced("triggers config_updates"),
  memory_hotplug:
    spaced(`activate_fails queue_event_fails queue_event_count plug_agg plug_count plug_bytes plug_fails
    unplug_agg unplug_count unplug_bytes unplug_fails unplug_discard_fails unplug_all_agg unplug_all_count unplug_all_fails
    state_agg state_count state_fails`),
};

/** Counters by group and field, e.g. `block_rootfs` and `read_bytes` */
export type Counts = ReadonlyMap<string, ReadonlyMap<string, number>>;

function group(fields: readonly string[], counts: ReadonlyMap<string, number> | undefined): object {
  const value = (field: string): object | number =>
    field.endsWith("_agg") ? { min_us: 0, max_us: 0, sum_us: 0 } : (counts?.get(field) ?? 0);
  return Object.fromEntries(fields.map((field) => [field, value(field)]));
}

function sumOf(counts: Counts, prefix: string): ReadonlyMap<string, number> {
  const sum = new Map<string, number>();
  for (const [name, fields] of counts)
    if (name.startsWith(prefix))
      for (const [field, count] of fields) sum.set(field, (sum.get(field) ?? 0) + count);
  return sum;
}

/** All groups, with one for each drive (`block_ID`) and interface (`net_ID`) and their sums. */
export function metricGroups(
  counts: Counts,
  drives: readonly string[],
  interfaces: readonly string[],
): Readonly<Record<string, object>> {
  const named = (groups: Readonly<Record<string, readonly string[]>>): object =>
    Object.fromEntries(
      Object.entries(groups).map(([name, fields]) => [name, group(fields, counts.get(name))]),
    );
  const each = (kind: string, ids: readonly string[], fields: readonly string[]): object => ({
    ...Object.fromEntries(ids.map((id) => [`${kind}_${id}`, group(fields, counts.get(`${kind}_${id}`))])),
    [kind]: group(fields, sumOf(counts, `${kind}_`)),
  });
  return {
    ...named(before),
    ...each("block", drives, block),
    ...named(between),
    ...each("net", interfaces, net),
    ...named(after),
  };
}
