// What QEMU and the devices have counted since the start, under the metrics' names.
import type { DeviceHost } from "../qemu/device-host.ts";
import type { QmpClient } from "../qemu/qmp-client.ts";
import type { VmConfig } from "./vm-config.ts";

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
}

function numbers(value: unknown): Map<string, number> {
  if (typeof value !== "object" || value === null) return new Map();
  return new Map(
    Object.entries(value).flatMap(([name, count]) => (typeof count === "number" ? [[name, count]] : [])),
  );
}

// The metrics' names by QEMU's
const blockNames: readonly (readonly [qemu: string, metric: string])[] = [
  ["rd_bytes", "read_bytes"],
  ["wr_bytes", "write_bytes"],
  ["rd_operations", "read_count"],
  ["wr_operations", "write_count"],
  ["flush_operations", "flush_count"],
  ["invalid_rd_operations", "invalid_reqs_count"],
];

/** Totals by group; a machine that has ended has none. */
export async function readCounters(
  config: VmConfig,
  qmp: QmpClient,
  devices: DeviceHost,
): Promise<Map<string, Map<string, number>>> {
  const totals = new Map<string, Map<string, number>>();
  const stats = await qmp.execute("query-blockstats");
  for (const { drive_id: id } of config.drives) {
    const own: unknown = Array.isArray(stats)
      ? stats.find((one: unknown) => String(field(one, "qdev")).split("/").includes(`blk-${id}`))
      : undefined;
    const counts = blockNames.map(
      ([from, to]) => [to, Number(field(field(own, "stats"), from) ?? 0)] as const,
    );
    totals.set(`block_${id}`, new Map(counts));
  }
  const counters = await devices.request("counters");
  for (const { iface_id: id } of config.interfaces)
    totals.set(`net_${id}`, numbers(field(counters["nets"], id)));
  totals.set("vsock", numbers(counters["vsock"]));
  totals.set("uart", numbers(counters["serial"]));
  return totals;
}
