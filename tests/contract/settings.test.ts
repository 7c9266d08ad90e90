// PUT /entropy, /serial, /logger, /metrics and /cpu-config before the start.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { get, put, type Row, refused, sequence } from "./harness/rows.ts";

const bucket = { size: 1000, refill_time: 100 };

sequence("entropy: a device, with or without limiter", [
  put("/entropy", {}),
  get("/vm/config", { entropy: { rate_limiter: null } }),
  put("/entropy", { rate_limiter: { bandwidth: bucket } }),
  get("/vm/config", {
    entropy: { rate_limiter: { bandwidth: { ...bucket, one_time_burst: null }, ops: null } },
  }),
  put("/entropy", { rate_limiter: {} }),
  get("/vm/config", { entropy: { rate_limiter: null } }),
  put("/entropy", [null]),
  refused("PUT /entropy", [], /invalid length 0/),
  refused("PUT /entropy", { x: 1 }, /unknown field `x`.*`rate_limiter`/),
  refused("PUT /entropy", { rate_limiter: 5 }, /integer `5`/),
]);

sequence("serial: its file is made by the start, so any path will do", [
  put("/serial", {}),
  put("/serial", { serial_out_path: "/nope/serial" }),
  put("/serial", { serial_out_path: "DIR/serial", rate_limiter: bucket }, 204, {
    effect: ({ directory }) => assert.ok(!existsSync(join(directory, "serial"))),
  }),
  put("/serial", { serial_out_path: null, rate_limiter: null }),
  refused("PUT /serial", { serial_out_path: 5 }, /integer `5`, expected (a|path) string/),
  refused("PUT /serial", { rate_limiter: { size: 1 } }, /missing field `refill_time`/),
  // A token bucket, not a rate limiter, and it lets unknown fields pass.
  refused("PUT /serial", { rate_limiter: { bandwidth: null } }, /missing field `size`/),
  refused("PUT /serial", { x: 1 }, /unknown field `x`/),
]);

sequence("logger: the log goes where it is told, at once", [
  put("/logger", {}),
  put(
    "/logger",
    { log_path: "DIR/log", level: "warn", show_level: true, show_log_origin: true, module: null },
    204,
    {
      effect: ({ directory }) => assert.ok(existsSync(join(directory, "log"))),
    },
  ),
  ...["Error", "WARNING", "info", "Debug", "trace", "Off"].map((level) => put("/logger", { level })),
  refused("PUT /logger", { level: "Loud" }, /level/i),
  refused("PUT /logger", { level: 5 }, /integer `5`, expected a string/),
  refused("PUT /logger", { log_path: "/nope/log" }, /No such file or directory/),
  refused("PUT /logger", { log_path: "DIR" }, /Is a directory/),
  refused("PUT /logger", { show_level: 1 }, /integer `1`, expected a boolean/),
  refused("PUT /logger", { x: 1 }, /unknown field `x`.*`log_path`/),
]);

sequence("logger: what is logged", [
  put("/logger", { log_path: "DIR/log", level: "Info", show_level: true }),
  get("/version", {}),
  refused("GET /balloon", undefined, /balloon/, {
    effect: ({ directory }) => {
      const log = readFileSync(join(directory, "log"), "utf8");
      assert.match(log, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[anonymous-instance:fc_api:INFO\] .*\n/);
      assert.match(log, /:INFO\] The API server received a G(et|ET) request on "\/version"/);
      assert.match(log, /:ERROR\] .*400/);
    },
  }),
]);

sequence("metrics: one file, once", [
  refused("PUT /metrics", {}, /missing field `metrics_path`/),
  refused("PUT /metrics", { metrics_path: 5 }, /integer `5`, expected (a|path) string/),
  refused("PUT /metrics", { metrics_path: "/nope/m" }, /No such file or directory/),
  refused("PUT /metrics", { metrics_path: "DIR" }, /Is a directory/),
  refused("PUT /metrics", { metrics_path: "DIR/m", emit_id: 5 }, /integer `5`, expected a boolean/),
  refused("PUT /metrics", { metrics_path: "DIR/m", properties: { a: 1 } }, /integer `1`, expected a string/),
  put("/metrics", { metrics_path: "DIR/m", emit_id: true, properties: { a: "b" }, unknown: 1 }, 204, {
    effect: ({ directory }) => assert.ok(existsSync(join(directory, "m"))),
  }),
  refused("PUT /metrics", { metrics_path: "DIR/m" }, /reinitialization/i),
]);

const template = (body: object, says: RegExp): Row => refused("PUT /cpu-config", body, says);
const leaf = { leaf: "0x1", subleaf: "0b0", flags: 0 };
const unsupported = { unsupportedBy: "firecracker-qemu" } as const;

sequence("cpu-config: a template in its own words", [
  put("/cpu-config", {}),
  put("/cpu-config", { kvm_capabilities: [], cpuid_modifiers: [], msr_modifiers: [] }),
  template({ x: 1 }, /unknown field `x`.*`cpuid_modifiers`/),
  template({ reg_modifiers: [] }, /unknown field `reg_modifiers`/),
  template({ kvm_capabilities: null }, /null, expected a sequence/),
  template({ kvm_capabilities: [171] }, /integer `171`, expected a string/),
  template({ kvm_capabilities: ["x"] }, /x.* capability/i),
  template({ cpuid_modifiers: [{ leaf: "0x1" }] }, /missing field `subleaf`/),
  template({ cpuid_modifiers: [{ ...leaf, leaf: "1", modifiers: [] }] }, /\b0x\b/),
  template({ cpuid_modifiers: [{ ...leaf, modifiers: [{ register: "EAX", bitmap: "0b1" }] }] }, /eax/),
  template({ cpuid_modifiers: [{ ...leaf, modifiers: [{ register: "eax", bitmap: "0b2" }] }] }, /bitmap/),
  template({ msr_modifiers: [{ addr: "0x1ffffffff", bitmap: "0b1" }] }, /0x1ffffffff/),
  template({ msr_modifiers: [{ addr: "0x10", bitmap: "1".repeat(65) }] }, /bitmap/),
  put("/cpu-config", { kvm_capabilities: ["171", "!172"] }, 204, unsupported),
  put("/cpu-config", { msr_modifiers: [{ addr: "0x10a", bitmap: "0bx1_0x" }] }, 204, unsupported),
  get("/vm/config", { "cpu-config": null }),
]);
