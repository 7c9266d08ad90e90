// PUT, PATCH and GET /machine-config before the start.
import { get, patch, put, type Row, refused, sequence } from "./harness/rows.ts";

const path = "/machine-config";
const base = { vcpu_count: 1, mem_size_mib: 128 };
const set = (more: object, status = 204, rest: Partial<Row> = {}): Row =>
  put(path, { ...base, ...more }, status, rest);
const wrong = (more: object, says: RegExp): Row => refused(`PUT ${path}`, { ...base, ...more }, says);

sequence("machine-config: values", [
  get(path, { ...base, smt: false, track_dirty_pages: false, huge_pages: "None" }),
  set({ vcpu_count: 32 }),
  set({ vcpu_count: 1, smt: true }),
  set({ vcpu_count: 2, smt: true, mem_size_mib: 256, track_dirty_pages: true }),
  get(path, { vcpu_count: 2, mem_size_mib: 256, smt: true, track_dirty_pages: true }),
  // What is not given is the default again.
  set({}),
  get(path, { ...base, smt: false, track_dirty_pages: false }),
  wrong({ vcpu_count: 0 }, /number of vCPUs/i),
  wrong({ vcpu_count: 33 }, /number of vCPUs/i),
  wrong({ vcpu_count: 3, smt: true }, /number of vCPUs.*SMT/i),
  wrong({ mem_size_mib: 0 }, /memory size/i),
  set({ mem_size_mib: 1 }),
  wrong({ mem_size_mib: 129, huge_pages: "2M" }, /memory size.*page size/i),
  wrong({ mem_size_mib: 129, huge_pages: "Transparent" }, /memory size.*page size/i),
  set({ huge_pages: "Transparent" }),
  get(path, { huge_pages: "Transparent" }),
  set({ huge_pages: "2M" }),
  get("/vm/config", { "machine-config": { huge_pages: "2M" } }),
]);

sequence("machine-config: what is no such body", [
  refused(`PUT ${path}`, {}, /missing field `vcpu_count`/),
  refused(`PUT ${path}`, { vcpu_count: 1 }, /missing field `mem_size_mib`/),
  refused(`PUT ${path}`, { mem_size_mib: 1 }, /missing field `vcpu_count`/),
  wrong({ foo: 1 }, /unknown field `foo`.*`vcpu_count`/),
  wrong({ ht_enabled: false }, /unknown field `ht_enabled`/),
  wrong({ vcpu_count: "1" }, /string \\"1\\", expected u8/),
  wrong({ vcpu_count: 1.5 }, /floating point `1.5`, expected u8/),
  refused(`PUT ${path}`, '{"vcpu_count":1.0,"mem_size_mib":128}', /floating point `1.0`/),
  refused(`PUT ${path}`, '{"vcpu_count":-0,"mem_size_mib":128}', /floating point `-0.0`/),
  wrong({ vcpu_count: -1 }, /integer `-1`, expected u8/),
  wrong({ vcpu_count: 256 }, /integer `256`, expected u8/),
  wrong({ vcpu_count: null }, /null, expected u8/),
  wrong({ vcpu_count: true }, /boolean `true`, expected u8/),
  wrong({ vcpu_count: [] }, /sequence, expected u8/),
  wrong({ vcpu_count: {} }, /map, expected u8/),
  refused(
    `PUT ${path}`,
    '{"vcpu_count":1,"mem_size_mib":18446744073709551616}',
    /floating point `1.8446744073709552e\+?19`/,
  ),
  wrong({ smt: null }, /null, expected a boolean/),
  wrong({ track_dirty_pages: 1 }, /integer `1`, expected a boolean/),
  wrong({ huge_pages: "1G" }, /unknown variant `1G`.*`None`, `Transparent`, `2M`/),
  wrong({ huge_pages: null }, /line 1 column/),
  wrong({ cpu_template: "T9" }, /unknown variant `T9`.*`T2CL`/),
  refused(
    `PUT ${path}`,
    '{"vcpu_count":1,"vcpu_count":2,"mem_size_mib":128}',
    /duplicate field `vcpu_count`/,
  ),
  put(path, [2, 256]),
  get(path, { vcpu_count: 2, mem_size_mib: 256 }),
  refused(`PUT ${path}`, [2], /invalid length 1/),
  refused(`PUT ${path}`, [2, 256, true, null, true, "None", 1], /trailing characters/),
]);

sequence("machine-config: PATCH changes what is given, or nothing", [
  refused(`PATCH ${path}`, undefined, /Empty PATCH request/),
  refused(`PATCH ${path}`, {}, /Empty PATCH request/),
  refused(`PATCH ${path}`, { vcpu_count: null }, /Empty PATCH request/),
  patch(path, { mem_size_mib: 512 }),
  get(path, { vcpu_count: 1, mem_size_mib: 512 }),
  patch(path, { vcpu_count: 3 }),
  refused(`PATCH ${path}`, { smt: true, mem_size_mib: 64 }, /number of vCPUs/i),
  get(path, { vcpu_count: 3, mem_size_mib: 512, smt: false }),
  refused(`PATCH ${path}`, { vcpu_count: 0 }, /number of vCPUs/i),
  refused(`PATCH ${path}`, { mem_size_mib: 0 }, /memory size/i),
  refused(`PATCH ${path}`, { y: 2 }, /unknown field `y`/),
  refused(`PATCH ${path}`, { vcpu_count: "x" }, /expected u8/),
  patch(path, { track_dirty_pages: true }),
  get("/vm/config", { "machine-config": { track_dirty_pages: true, vcpu_count: 3 } }),
]);

sequence("machine-config: cpu_template is deprecated, whatever comes of it", [
  set({ cpu_template: "T2" }, 204, { isDeprecated: true, unsupportedBy: "firecracker-qemu" }),
  patch(path, { cpu_template: "T2S" }, 204, { isDeprecated: true, unsupportedBy: "firecracker-qemu" }),
  set({ cpu_template: "None" }, 204, { isDeprecated: true }),
  refused(`PUT ${path}`, { ...base, vcpu_count: 0, cpu_template: "None" }, /vCPUs/, { isDeprecated: true }),
  set({ cpu_template: null }),
  get(path, base),
]);
