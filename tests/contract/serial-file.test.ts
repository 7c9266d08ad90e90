// PUT /serial: the guest's console in a file, opened at the start; what is over the rate is dropped and counted.
import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Guest } from "./harness/guest.ts";

/** Waits until `holds`; the runner's limit ends it. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await delay(20);
}

test("serial: the console goes to serial_out_path, which the start makes, and not to standard output", async () => {
  await using guest = await Guest.prepare();
  const { vmm } = guest;
  const file = join(vmm.directory, "console");
  await vmm.put("/serial", { serial_out_path: file });
  assert.ok(!existsSync(file), "it is opened at the start");
  await vmm.put("/actions", { action_type: "InstanceStart" });
  await until(() => readFileSync(file, "utf8").includes("contract-guest ready"));
  assert.doesNotMatch(vmm.output, /contract-guest ready/);
});

test("serial: a limiter drops what is over the rate, and the metrics count it", async () => {
  await using guest = await Guest.prepare();
  const { vmm } = guest;
  const file = join(vmm.directory, "console");
  const metrics = join(vmm.directory, "metrics");
  await vmm.put("/metrics", { metrics_path: metrics });
  await vmm.put("/serial", {
    serial_out_path: file,
    rate_limiter: { size: 10, one_time_burst: 5, refill_time: 3_600_000 },
  });
  await vmm.put("/actions", { action_type: "InstanceStart" });
  const dropped = async (): Promise<number> => {
    await vmm.put("/actions", { action_type: "FlushMetrics" });
    const lines = readFileSync(metrics, "utf8").trim().split("\n");
    return Number(JSON.parse(lines.at(-1) ?? "").uart.rate_limiter_dropped_bytes);
  };
  while ((await dropped()) === 0) await delay(100);
  assert.equal(statSync(file).size, 15);
});
