// /pmem before the start: the file is opened by the start.
import { beforeStart, get, put, refused, sequence } from "./harness/rows.ts";

const unsupported = { unsupportedBy: "firecracker-qemu" } as const;
const root = { drive_id: "r", is_root_device: true, path_on_host: "DIR/disk.img" };

sequence("pmem: before the start", [
  refused("PUT /pmem/a", {}, /missing field `id`/),
  refused("PUT /pmem/a", { id: "a" }, /missing field `path_on_host`/),
  refused("PUT /pmem/a", { id: "b", path_on_host: "x" }, /id from the path/),
  refused("PUT /pmem/a", { id: "a", path_on_host: 5 }, /integer `5`, expected a string/),
  refused("PUT /pmem/a", { id: "a", path_on_host: "x", root_device: 5 }, /integer `5`, expected a boolean/),
  refused("PUT /pmem/a", { id: "a", path_on_host: "x", y: 1 }, /unknown field `y`/),
  refused("PUT /pmem/a-b", { id: "a-b", path_on_host: "x" }, /alphanumeric/),
  refused("PUT /pmem", { id: "a", path_on_host: "x" }, /ID cannot be empty/),
  put("/pmem/a", { id: "a", path_on_host: "DIR/nope", read_only: true }, 204, unsupported),
  put("/drives/r", root),
  refused("PUT /pmem/b", { id: "b", path_on_host: "x", root_device: true }, /root device.*block device/i),
  refused("PATCH /pmem/a", { id: "a" }, beforeStart),
  refused("PATCH /pmem/a", { id: "b" }, /id from the path/),
  refused("PATCH /pmem/a", {}, /missing field `id`/),
  refused("DELETE /pmem/a", undefined, beforeStart),
  get("/", { state: "Not started" }),
]);
