// /hotplug/memory before the start.
import { isProgram } from "./harness/binary.ts";
import { beforeStart, get, put, type Row, refused, sequence } from "./harness/rows.ts";

const path = "/hotplug/memory";
const wrong = (more: object, says: RegExp): Row =>
  refused(`PUT ${path}`, { total_size_mib: 1024, ...more }, says);

/** A body that is accepted and then shown. */
function accepted(body: object, shown = body): readonly Row[] {
  const row = put(path, body, 204, { unsupportedBy: "firecracker-qemu" });
  return isProgram("firecracker-qemu") ? [row] : [row, get("/vm/config", { "memory-hotplug": shown })];
}

sequence("memory-hotplug: before the start", [
  refused(`PUT ${path}`, {}, /missing field `total_size_mib`/),
  wrong({ total_size_mib: -1 }, /integer `-1`, expected u32/),
  wrong({ total_size_mib: "1" }, /expected u32/),
  wrong({ block_size_mib: null }, /null, expected u32/),
  wrong({ x: 1 }, /unknown field `x`/),
  wrong({ block_size_mib: 1 }, /[Bb]lock size/),
  wrong({ block_size_mib: 3 }, /[Bb]lock size.*power of 2/),
  wrong({ slot_size_mib: 127 }, /[Ss]lot size/),
  wrong({ slot_size_mib: 129 }, /[Ss]lot size.*multiple of (the )?block size/),
  wrong({ total_size_mib: 0 }, /[Tt]otal size.*lower than (the )?slot size/),
  wrong({ total_size_mib: 129 }, /[Tt]otal size.*multiple of (the )?slot size/),
  get("/vm/config", { "memory-hotplug": null }),
  ...accepted({ total_size_mib: 1024 }, { total_size_mib: 1024, block_size_mib: 2, slot_size_mib: 128 }),
  ...accepted({ total_size_mib: 512, block_size_mib: 4, slot_size_mib: 256 }),
  refused(`GET ${path}`, undefined, beforeStart),
  refused(`PATCH ${path}`, { requested_size_mib: 256 }, beforeStart),
  refused(`PATCH ${path}`, {}, /missing field `requested_size_mib`/),
  refused(`PATCH ${path}`, { requested_size_mib: -1 }, /integer `-1`, expected u32/),
]);
