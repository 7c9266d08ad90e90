// PUT /drives before the start.
import { kernel } from "./harness/binary.ts";
import { beforeStart, get, put, type Row, refused, sequence } from "./harness/rows.ts";

const body = (id: string, more: object = {}): object => ({
  drive_id: id,
  is_root_device: false,
  path_on_host: "DIR/disk.img",
  ...more,
});
const drive = (id: string, more: object = {}): Row => put(`/drives/${id}`, body(id, more));
const wrong = (more: object, says: RegExp, id = "a"): Row =>
  refused(`PUT /drives/${id}`, body(id, more), says);
const order = (...ids: readonly string[]): Row =>
  get("/vm/config", { drives: ids.map((drive_id) => ({ drive_id })) });

sequence("drives: the file is opened when it is named", [
  refused("PUT /drives/a", { drive_id: "a" }, /missing field `is_root_device`/),
  refused("PUT /drives/a", { is_root_device: true }, /missing field `drive_id`/),
  refused("PUT /drives/a", { drive_id: "a", is_root_device: false }, /[Ii]nvalid block config/),
  wrong({ path_on_host: null }, /[Ii]nvalid block config/),
  wrong({ path_on_host: "DIR/nope" }, /backing file: No such file or directory.* .*nope/),
  wrong({ path_on_host: "" }, /backing file: No such file/),
  wrong({ path_on_host: "/tmp" }, /backing file: Is a directory.* \/tmp/),
  wrong({ path_on_host: 5 }, /integer `5`, expected a string/),
  get("/vm/config", { drives: [] }),
  drive("a"),
  drive("a", { path_on_host: "DIR/disk2.img", is_read_only: true }),
  get("/vm/config", {
    drives: [
      {
        drive_id: "a",
        partuuid: null,
        is_root_device: false,
        cache_type: "Unsafe",
        is_read_only: true,
        path_on_host: "DIR/disk2.img",
        rate_limiter: null,
        io_engine: "Sync",
        socket: null,
      },
    ],
  }),
  // A path without a slash is the process's.
  drive("b", { path_on_host: "disk.img" }),
  drive("c", { path_on_host: "DIR/empty" }),
  drive("d", { path_on_host: "DIR/odd.img" }),
]);

sequence("drives: ids", [
  refused("PUT /drives/b", body("c"), /id from the path.*does not match the id from the body/),
  refused("PUT /drives/b-1", body("b-1"), /alphanumeric/),
  refused("PUT /drives/b.1", body("b.1"), /alphanumeric/),
  drive("b_1"),
  drive("Ä4"),
  refused("PUT /drives/", body(""), /ID cannot be empty/),
  refused("PUT /drives", body("z"), /ID cannot be empty/),
  refused("PUT /drives//z", body("z"), /ID cannot be empty/),
  put("/drives/z/more", body("z")),
  order("b_1", "Ä4", "z"),
]);

sequence("drives: the root device is one, and first", [
  drive("a"),
  drive("r", { is_root_device: true, partuuid: "0-1" }),
  order("r", "a"),
  get("/vm/config", {
    drives: [{ drive_id: "r", is_root_device: true, partuuid: "0-1" }, { drive_id: "a" }],
  }),
  wrong({ is_root_device: true }, /root block device already exists/i, "s"),
  // One that is there already cannot become another root either, but the root may cease to be one.
  wrong({ is_root_device: true }, /root block device already exists/i, "a"),
  drive("r"),
  order("r", "a"),
  drive("a", { is_root_device: true }),
  order("a", "r"),
]);

sequence("drives: kinds", [
  wrong({ cache_type: "None" }, /unknown variant `None`.*`Unsafe` or `Writeback`/),
  wrong({ cache_type: null }, /line 1 column/),
  drive("a", { cache_type: "Writeback", io_engine: "Async", is_read_only: null }),
  get("/vm/config", { drives: [{ cache_type: "Writeback", io_engine: "Async", is_read_only: false }] }),
  wrong({ io_engine: "Uring" }, /unknown variant `Uring`.*`Async` or `Sync`/),
  wrong({ is_read_only: "no" }, /string \\"no\\", expected a boolean/),
  wrong({ nope: 1 }, /unknown field `nope`/),
  wrong({ socket: "DIR/nope.sock" }, /[Ii]nvalid block config/),
]);

sequence("drives: rate limiters", [
  drive("a", { rate_limiter: { bandwidth: { size: 1000, refill_time: 100, one_time_burst: 5 } } }),
  get("/vm/config", {
    drives: [{ rate_limiter: { bandwidth: { size: 1000, refill_time: 100, one_time_burst: 5 }, ops: null } }],
  }),
  // What limits nothing is not there.
  drive("a", {
    rate_limiter: { bandwidth: { size: 0, refill_time: 100 }, ops: { size: 1, refill_time: 0 } },
  }),
  get("/vm/config", { drives: [{ rate_limiter: null }] }),
  drive("a", { rate_limiter: {} }),
  drive("a", { rate_limiter: null }),
  drive("a", { rate_limiter: { ops: { size: 1, refill_time: 1, unknown: 1 } } }),
  get("/vm/config", {
    drives: [{ rate_limiter: { bandwidth: null, ops: { size: 1, one_time_burst: null, refill_time: 1 } } }],
  }),
  wrong({ rate_limiter: { x: {} } }, /unknown field `x`.*`bandwidth` or `ops`/),
  wrong({ rate_limiter: { ops: {} } }, /missing field `size`/),
  wrong({ rate_limiter: { ops: { size: 1 } } }, /missing field `refill_time`/),
  wrong({ rate_limiter: { ops: { size: -1, refill_time: 1 } } }, /integer `-1`, expected u64/),
  wrong({ rate_limiter: [] }, /invalid length 0/),
]);

sequence("drives: vhost-user", [
  refused(
    "PUT /drives/v",
    { drive_id: "v", is_root_device: false, socket: "DIR/nope" },
    /No such file or directory/,
  ),
  refused(
    "PUT /drives/v",
    { drive_id: "v", is_root_device: false, socket: "DIR/nope", is_read_only: false },
    /[Ii]nvalid block config/,
  ),
  get("/vm/config", { drives: [] }),
]);

sequence("drives: PATCH and DELETE are for later", [
  drive("a"),
  refused("PATCH /drives/a", { drive_id: "a", path_on_host: "DIR/disk.img" }, beforeStart),
  refused("PATCH /drives/a", { drive_id: "b" }, /id from the path/),
  refused("PATCH /drives/a", {}, /missing field `drive_id`/),
  refused("PATCH /drives/a", { drive_id: "a", is_read_only: true }, /unknown field `is_read_only`/),
  refused("DELETE /drives/a", undefined, beforeStart),
  refused("DELETE /drives/a-b", undefined, /alphanumeric/),
  refused("DELETE /drives", undefined, /ID cannot be empty/),
]);

sequence("drives: as many as one likes before the start, 17 devices in it", [
  ...Array.from({ length: 18 }, (_, index) => drive(`d${index}`)),
  order(...Array.from({ length: 18 }, (_, index) => `d${index}`)),
  put("/boot-source", { kernel_image_path: kernel }),
  refused("PUT /actions", { action_type: "InstanceStart" }, /Could not attach device: .*not available/),
  get("/", { state: "Not started" }),
]);
