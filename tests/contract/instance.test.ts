// GET / and /version, GET /vm/config, PUT /actions, PATCH /vm before a start; and what every path and method answers.
import { beforeStart, get, patch, put, type Row, refused, sequence } from "./harness/rows.ts";

const emptyConfig = {
  balloon: null,
  drives: [],
  "boot-source": { kernel_image_path: "", initrd_path: null, boot_args: null },
  "cpu-config": null,
  logger: null,
  "machine-config": {
    vcpu_count: 1,
    mem_size_mib: 128,
    smt: false,
    track_dirty_pages: false,
    huge_pages: "None",
  },
  metrics: null,
  "mmds-config": null,
  "network-interfaces": [],
  vsock: null,
  entropy: null,
  pmem: [],
  "memory-hotplug": null,
};

sequence(
  "instance: what it is before the start",
  [
    get("/", { id: "some-id", state: "Not started", app_name: "Firecracker" }),
    get("/vm/config", emptyConfig),
    refused("GET /", "{}", /GET request cannot have a body/),
    refused("PUT /", {}, /method and\/or path: PUT /),
    refused("GET /vm", undefined, /method and\/or path: GET vm/),
  ],
  ["--id", "some-id"],
);

sequence("actions: what is refused before the start", [
  refused("PUT /actions", undefined, /Empty PUT request/),
  refused("PUT /actions", {}, /missing field `action_type`/),
  refused("PUT /actions", "{", /EOF while parsing an object/),
  refused("PUT /actions", "[]", /invalid length 0/),
  refused("PUT /actions", "null", /null/),
  refused("PUT /actions", { action_type: null }, /line 1 column/),
  refused("PUT /actions", { action_type: "Reboot" }, /unknown variant `Reboot`.*`InstanceStart`/),
  refused("PUT /actions", { action_type: "instancestart" }, /unknown variant `instancestart`/),
  refused("PUT /actions", { action_type: "InstanceStart", x: 1 }, /unknown field `x`/),
  refused(
    "PUT /actions",
    '{"action_type":"FlushMetrics","action_type":"x"}',
    /duplicate field `action_type`/,
  ),
  refused("PUT /actions", { action_type: "FlushMetrics" }, beforeStart),
  refused("PUT /actions", { action_type: "SendCtrlAltDel" }, beforeStart),
  refused("PUT /actions", { action_type: "InstanceStart" }, /without kernel configuration/),
  // An array of the fields' values and an object for an enum's name are the same request.
  refused("PUT /actions", ["InstanceStart"], /without kernel configuration/),
  refused("PUT /actions", { action_type: { InstanceStart: null } }, /without kernel configuration/),
  get("/", { state: "Not started" }),
]);

sequence("vm: a machine that does not run cannot be paused", [
  refused("PATCH /vm", { state: "Paused" }, beforeStart),
  refused("PATCH /vm", { state: "Resumed" }, beforeStart),
  refused("PATCH /vm", { state: "Running" }, /unknown variant `Running`/),
  refused("PATCH /vm", {}, /missing field `state`/),
  refused("PATCH /vm", { state: "Paused", x: 1 }, /unknown field `x`/),
  refused("PUT /vm", { state: "Paused" }, /method and\/or path: PUT vm/),
]);

const unknown = (method: string, path: string, body?: unknown): Row =>
  refused(
    `${method} ${path}`,
    body,
    new RegExp(`method and/or path: ${method} ${path.split("/")[1]?.replace("?", "[?]")}\\.`),
  );

sequence("paths: slashes around a path do not count, what is behind a known one mostly neither", [
  get("/version/", {}),
  get("//version", {}),
  get("/version/x", {}),
  get("/machine-config/x", { vcpu_count: 1 }),
  get("/vm/config/x", { drives: [] }),
  get("//", { state: "Not started" }),
  put("/entropy/x", {}),
  unknown("GET", "/nope"),
  unknown("GET", "/version?x=1"),
  unknown("GET", "/constructor"),
  unknown("GET", "/actions"),
  unknown("GET", "/drives/a"),
  unknown("GET", "/hotplug/disk"),
  unknown("PUT", "/hotplug/disk", {}),
  unknown("PUT", "/version", {}),
  unknown("PATCH", "/entropy", {}),
  unknown("PATCH", "/boot-source", {}),
  unknown("PATCH", "/vsock", {}),
  unknown("DELETE", "/vsock"),
  unknown("DELETE", "/"),
  refused("PUT /nope", undefined, /Empty PUT request/),
  refused("PATCH /nope", undefined, /Empty PATCH request/),
  refused("GET /nope", {}, /GET request cannot have a body/),
  refused("DELETE /drives/a", {}, /Delete request/),
]);

sequence("json: every body is read as strictly", [
  refused("PUT /machine-config", "", /Empty PUT request/),
  refused("PUT /machine-config", " ", /EOF while parsing a value/),
  refused("PUT /machine-config", "x", /expected value/),
  refused("PUT /machine-config", '{"vcpu_count":1,}', /trailing comma/),
  refused("PUT /machine-config", '{"vcpu_count" 1}', /expected `:`/),
  refused("PUT /machine-config", "{} {}", /missing field/),
  refused("PUT /entropy", "{} {}", /trailing characters/),
  refused("PUT /machine-config", '{"vcpu_count":01}', /invalid number/),
  refused("PUT /mmds", '{"a":1e999}', /number out of range/),
  refused("PUT /mmds", '{"a":"\\x"}', /invalid escape/),
  refused("PUT /mmds", '{"a":"\\ud800"}', /line 1/),
  refused("PUT /mmds", '{"a":"\t"}', /control character/),
  refused("PUT /mmds", Buffer.from('{"a":"\xff"}', "latin1"), /invalid unicode/),
  refused("PUT /mmds", "﻿{}", /expected value/),
  refused("PUT /mmds", `${"[".repeat(128)}${"]".repeat(128)}`, /recursion limit/),
  put("/mmds", `${"[".repeat(127)}${"]".repeat(127)}`),
  patch("/machine-config", ' {\n"smt" : false }\r\n'),
]);
