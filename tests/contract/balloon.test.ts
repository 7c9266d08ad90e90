// /balloon before the start.
import { beforeStart, get, patch, put, type Row, refused, sequence } from "./harness/rows.ts";

const base = { amount_mib: 0, deflate_on_oom: false };
const wrong = (more: object, says: RegExp): Row => refused("PUT /balloon", { ...base, ...more }, says);

sequence("balloon: before the start", [
  refused("GET /balloon", undefined, /No balloon device found/),
  refused("PUT /balloon", {}, /missing field `amount_mib`/),
  refused("PUT /balloon", { amount_mib: 1 }, /missing field `deflate_on_oom`/),
  wrong({ amount_mib: -1 }, /integer `-1`, expected u32/),
  wrong({ amount_mib: 4_294_967_296 }, /integer `4294967296`, expected u32/),
  wrong({ deflate_on_oom: 1 }, /integer `1`, expected a boolean/),
  wrong({ stats_polling_interval_s: 65536 }, /integer `65536`, expected u16/),
  wrong({ stats_polling_interval_s: null }, /null, expected u16/),
  wrong({ must_tell_host: true }, /unknown field `must_tell_host`/),
  wrong({ amount_mib: 129 }, /too large/),
  get("/vm/config", { balloon: null }),
  put("/balloon", base),
  get("/balloon", {
    ...base,
    stats_polling_interval_s: 0,
    free_page_hinting: false,
    free_page_reporting: false,
  }),
  put("/balloon", { ...base, amount_mib: 128, deflate_on_oom: true, stats_polling_interval_s: 5 }),
  get("/balloon", { amount_mib: 128, deflate_on_oom: true, stats_polling_interval_s: 5 }),
  get("/vm/config", { balloon: { amount_mib: 128, deflate_on_oom: true } }),
  put("/balloon", { ...base, free_page_hinting: true }, 204, { unsupportedBy: "firecracker-qemu" }),
  put("/balloon", { ...base, free_page_reporting: true }),
  get("/balloon", { amount_mib: 0, free_page_hinting: false, free_page_reporting: true }),
]);

sequence("balloon: the machine's memory is not smaller than it", [
  put("/balloon", { ...base, amount_mib: 64 }),
  refused("PUT /machine-config", { vcpu_count: 1, mem_size_mib: 63 }, /memory size.*balloon/i),
  refused("PATCH /machine-config", { mem_size_mib: 10 }, /memory size.*balloon/i),
  patch("/machine-config", { mem_size_mib: 64 }),
]);

sequence("balloon: what needs a running machine", [
  put("/balloon", base),
  refused("GET /balloon/statistics", undefined, beforeStart),
  refused("GET /balloon/hinting/status", undefined, beforeStart),
  refused("PATCH /balloon", { amount_mib: 1 }, beforeStart),
  refused("PATCH /balloon", {}, /missing field `amount_mib`/),
  refused("PATCH /balloon", undefined, /Empty PATCH request/),
  refused("PATCH /balloon/statistics", { stats_polling_interval_s: 1 }, beforeStart),
  refused("PATCH /balloon/statistics", {}, /missing field `stats_polling_interval_s`/),
  refused("PATCH /balloon/hinting/start", undefined, beforeStart),
  refused("PATCH /balloon/hinting/start", { acknowledge_on_stop: 5 }, /integer `5`, expected a boolean/),
  refused("PATCH /balloon/hinting/start", { unknown: 5 }, beforeStart),
  refused("PATCH /balloon/hinting/stop", undefined, beforeStart),
  refused("PATCH /balloon/hinting/stop", "nobody reads this", beforeStart),
  refused("GET /balloon/x", undefined, /GET request path `x`/),
  refused("GET /balloon/hinting", undefined, /GET request path `\/hinting\/`/),
  refused("PATCH /balloon/hinting/x", {}, /PATCH request path `\/hinting\/x`/),
]);
