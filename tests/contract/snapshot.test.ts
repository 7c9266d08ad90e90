// /snapshot/create and /snapshot/load before a start.
import assert from "node:assert/strict";
import { test } from "node:test";
import { beforeStart, get, put, type Row, refused, runRows, sequence } from "./harness/rows.ts";
import { Vmm } from "./harness/vmm.ts";

const create = (more: object, says: RegExp): Row =>
  refused("PUT /snapshot/create", { snapshot_path: "DIR/s", mem_file_path: "DIR/m", ...more }, says);
const load = (more: object, says: RegExp, rest: Partial<Row> = {}): Row =>
  refused("PUT /snapshot/load", { snapshot_path: "DIR/s", ...more }, says, rest);
const file = { mem_backend: { backend_path: "DIR/m", backend_type: "File" } };

sequence("snapshot: bodies", [
  refused("PUT /snapshot", {}, /snapshot.*operation/i),
  refused("PUT /snapshot/x", {}, /method and\/or path/),
  create({}, beforeStart),
  create({ snapshot_type: "Diff" }, beforeStart),
  create({ snapshot_type: "Half" }, /unknown variant `Half`.*`Diff` or `Full`/),
  create({ version: "1" }, /unknown field `version`/),
  refused("PUT /snapshot/create", {}, /missing field `snapshot_path`/),
  refused("PUT /snapshot/create", { snapshot_path: "x" }, /missing field `mem_file_path`/),
  refused("PUT /snapshot/load", {}, /missing field `snapshot_path`/),
  load({}, /missing field: .*`mem_backend` or `mem_file_path`/),
  load({ mem_file_path: "x", ...file }, /too many fields: .*`mem_backend` or `mem_file_path`/),
  load({ mem_backend: { backend_path: "x" } }, /missing field `backend_type`/),
  load(
    { mem_backend: { backend_path: "x", backend_type: "Net" } },
    /unknown variant `Net`.*`File` or `Uffd`/,
  ),
  load({ ...file, x: 1 }, /unknown field `x`/),
  load({ ...file, network_overrides: [{}] }, /missing field `iface_id`/),
  load({ ...file, network_overrides: null }, /null, expected a sequence/),
  load({ ...file, vsock_override: {} }, /missing field `uds_path`/),
  load({ ...file, huge_pages: "1G" }, /unknown variant `1G`.*`Snapshot`/),
  load({ ...file, clock_realtime: 1 }, /integer `1`, expected a boolean/),
  get("/", { state: "Not started" }),
]);

sequence("snapshot: none is loaded once anything was set, or tried to be, that a boot needs", [
  put("/drives/a", { drive_id: "a", is_root_device: false, path_on_host: "DIR/nope" }, 400),
  load(file, /not allowed after configuring boot-specific resources/),
  load({ mem_file_path: "DIR/m" }, /boot-specific/, { isDeprecated: true }),
  load({ ...file, enable_diff_snapshots: true }, /boot-specific/, { isDeprecated: true }),
  get("/", { state: "Not started" }),
]);

test("snapshot: a load that fails is answered, and ends the process", async () => {
  await using vmm = await Vmm.start();
  await runRows(vmm, [
    put("/logger", {}),
    put("/metrics", { metrics_path: "DIR/metrics" }),
    put("/serial", {}),
    put("/mmds", {}),
    put("/cpu-config", {}),
    load(file, /Load snapshot error/),
  ]);
  assert.deepEqual(await vmm.end(), { exitCode: 1, signal: null });
});
