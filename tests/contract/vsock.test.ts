// PUT /vsock before the start: the socket is bound at once.
import assert from "node:assert/strict";
import { existsSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { get, put, type Row, refused, sequence } from "./harness/rows.ts";

const isSocket = (path: string): boolean => existsSync(path) && statSync(path).isSocket();
const set = (name: string, more: object = {}, rest: Partial<Row> = {}): Row =>
  put("/vsock", { guest_cid: 3, uds_path: `DIR/${name}`, ...more }, 204, rest);
const wrong = (body: object, says: RegExp, rest: Partial<Row> = {}): Row =>
  refused("PUT /vsock", body, says, rest);

sequence("vsock: one device, whose socket is bound when it is named", [
  set("v", {}, { effect: ({ directory }) => assert.ok(isSocket(join(directory, "v"))) }),
  get("/vm/config", { vsock: { guest_cid: 3, uds_path: "DIR/v" } }),
  wrong({ guest_cid: 3, uds_path: "DIR/disk.img" }, /vsock.*Address (already )?in use/i),
  // The one before is gone even when the next one fails.
  get(
    "/vm/config",
    { vsock: null },
    { effect: ({ directory }) => assert.ok(!existsSync(join(directory, "v"))) },
  ),
  set("v"),
  set(
    "w",
    { guest_cid: 4 },
    {
      effect: ({ directory }) => {
        assert.ok(!existsSync(join(directory, "v")));
        assert.ok(isSocket(join(directory, "w")));
      },
    },
  ),
  get("/vm/config", { vsock: { guest_cid: 4, uds_path: "DIR/w" } }),
  // A socket that somebody has removed cannot be removed.
  set("x", {}, { effect: ({ directory }) => rmSync(join(directory, "x")) }),
  wrong({ guest_cid: 3, uds_path: "DIR/y" }, /vsock.*No such file or directory/i),
  set("y"),
  // A relative path is the process's.
  put("/vsock", { guest_cid: 4_294_967_295, uds_path: "relative" }, 204, {
    effect: ({ directory }) => assert.ok(isSocket(join(directory, "relative"))),
  }),
]);

sequence("vsock: what is refused", [
  wrong({}, /missing field `guest_cid`/),
  wrong({ guest_cid: 3 }, /missing field `uds_path`/),
  wrong({ guest_cid: "3", uds_path: "x" }, /string \\"3\\", expected u32/),
  wrong({ guest_cid: -1, uds_path: "x" }, /integer `-1`, expected u32/),
  wrong({ guest_cid: 4_294_967_296, uds_path: "x" }, /integer `4294967296`, expected u32/),
  wrong({ guest_cid: 3, uds_path: null }, /null, expected a string/),
  wrong({ guest_cid: 3, uds_path: "x", y: 1 }, /unknown field `y`.*`uds_path`/),
  wrong({ guest_cid: 3, uds_path: "DIR/nope/v" }, /vsock.*No such file or directory/i),
  wrong({ guest_cid: 3, uds_path: `DIR/${"x".repeat(108)}` }, /vsock/i),
  get("/vm/config", { vsock: null }),
]);

sequence("vsock: vsock_id is deprecated", [
  set("v", { vsock_id: "a" }, { isDeprecated: true }),
  get("/vm/config", { vsock: { guest_cid: 3, uds_path: "DIR/v" } }),
  set("w", { vsock_id: null }),
  wrong({ guest_cid: 3, uds_path: "DIR/nope/v", vsock_id: "a" }, /No such file/, { isDeprecated: true }),
  wrong({ guest_cid: 3, uds_path: "DIR/v", vsock_id: 5 }, /integer `5`, expected a string/),
]);
