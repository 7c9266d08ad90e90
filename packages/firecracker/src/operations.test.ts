import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Body,
  checkBody,
  checkPhase,
  checkVersion,
  requestPath,
  translatePaths,
  type VmPhase,
} from "./check-request.ts";
import { FirecrackerError } from "./errors.ts";
import { type OperationName, operations } from "./operations.ts";

test("operations: all 41 of the API, the three unplugs among them", () => {
  const all = new Set(Object.values(operations).map(({ method, path }) => `${method} ${path}`));
  assert.equal(all.size, 41);
  for (const device of ["drives", "pmem", "network-interfaces"]) assert.ok(all.has(`DELETE /${device}/{}`));
});

/** The error's code, or undefined when it may be sent. */
function verdict(
  name: OperationName,
  body: Body | undefined,
  version: string,
  phase: VmPhase,
): string | undefined {
  const operation = operations[name];
  try {
    const path = requestPath(operation, "x");
    checkPhase(operation, path, phase);
    checkVersion(operation, path, body, phase, version);
    checkBody(operation, body);
    return undefined;
  } catch (cause) {
    if (!(cause instanceof FirecrackerError)) throw cause;
    return `${cause.code} ${cause.message}`;
  }
}

const drive = { drive_id: "x", is_root_device: false };
const load = { snapshot_path: "/s", mem_backend: { backend_type: "File", backend_path: "/m" } };
const net = { iface_id: "x", host_dev_name: "t" };

type Row = readonly [
  name: OperationName,
  body: Body | undefined,
  version: string,
  phase: VmPhase,
  expected?: RegExp,
];
const rows: readonly Row[] = [
  // An operation by its version
  ["putSerial", {}, "1.13.1", "before", /^FC_VERSION PUT \/serial needs 1\.14\.0; this VMM is 1\.13\.1$/],
  ["putSerial", {}, "1.14.0", "before"],
  ["putPmem", { id: "x", path_on_host: "/p" }, "1.13.0", "before", /^FC_VERSION PUT \/pmem\/x needs 1\.14/],
  ["patchPmem", { id: "x" }, "1.15.1", "running", /^FC_VERSION .*1\.16\.0/],
  ["putMemoryHotplug", { total_size_mib: 128 }, "1.12.0", "before", /^FC_VERSION/],
  ["startHinting", {}, "1.13.0", "running", /^FC_VERSION/],
  ["stopHinting", undefined, "1.14.0", "running"],
  ["deleteDrive", undefined, "1.15.1", "running", /^FC_VERSION DELETE \/drives\/x needs 1\.16\.0/],
  ["deleteNetworkInterface", undefined, "1.16.0", "running"],
  // A device after the start
  ["putDrive", drive, "1.15.0", "before"],
  ["putDrive", drive, "1.15.0", "running", /^FC_VERSION PUT \/drives\/x after the start needs 1\.16\.0/],
  ["putDrive", drive, "1.16.1", "paused"],
  // A field
  ["putNetworkInterface", { ...net, mtu: 1400 }, "1.15.1", "before", /^FC_VERSION .*: mtu needs 1\.16\.0/],
  ["putNetworkInterface", { ...net, mtu: undefined }, "1.15.1", "before"],
  [
    "putSerial",
    { rate_limiter: { size: 1, refill_time: 1 } },
    "1.15.0",
    "before",
    /rate_limiter needs 1\.16/,
  ],
  [
    "putBalloon",
    { amount_mib: 1, deflate_on_oom: true, free_page_hinting: true },
    "1.13.0",
    "before",
    /free_page_hinting needs 1\.14/,
  ],
  [
    "putMmdsConfig",
    { network_interfaces: ["x"], imds_compat: true },
    "1.12.1",
    "before",
    /imds_compat needs 1\.13/,
  ],
  ["putMetrics", { metrics_path: "/m", emit_id: true }, "1.16.1", "before", /emit_id needs 1\.17/],
  ["putMetrics", { metrics_path: "/m", properties: {} }, "1.17.0-dev", "before"],
  [
    "loadSnapshot",
    { ...load, vsock_override: { uds_path: "/v" } },
    "1.15.1",
    "before",
    /vsock_override needs 1\.16/,
  ],
  ["loadSnapshot", { ...load, network_overrides: [] }, "1.11.0", "before", /network_overrides needs 1\.12/],
  [
    "loadSnapshot",
    { ...load, clock_realtime: true },
    "1.14.3",
    "before",
    /clock_realtime needs 1\.14\.4 or 1\.15\.1 or 1\.16\.0/,
  ],
  ["loadSnapshot", { ...load, clock_realtime: true }, "1.14.4", "before"],
  ["loadSnapshot", { ...load, clock_realtime: true }, "1.15.0", "before", /FC_VERSION/],
  ["loadSnapshot", { ...load, clock_realtime: true }, "1.15.1", "before"],
  ["loadSnapshot", { ...load, huge_pages: "2M" }, "1.16.1", "before", /huge_pages needs 1\.17/],
  // A value
  ["putMachineConfig", { vcpu_count: 1, mem_size_mib: 1, huge_pages: "2M" }, "1.10.0", "before"],
  [
    "putMachineConfig",
    { vcpu_count: 1, mem_size_mib: 1, huge_pages: "Transparent" },
    "1.16.1",
    "before",
    /huge_pages "Transparent" needs 1\.17/,
  ],
  // A field that no version has, at any depth; a VMM newer than this table may have it
  ["putDrive", { ...drive, colour: "red" }, "1.17.0", "before", /: colour no known version has it/],
  [
    "putDrive",
    { ...drive, rate_limiter: { ops: { size: 1, refill_time: 1, per: 2 } } },
    "1.16.0",
    "before",
    /: rate_limiter\.ops\.per no known/,
  ],
  ["putDrive", { ...drive, colour: "red" }, "1.18.0", "before"],
  // Phases
  [
    "putBootSource",
    { kernel_image_path: "/k" },
    "1.16.0",
    "running",
    /^FC_STATE PUT \/boot-source is possible only before the start; this machine is running/,
  ],
  ["patchDrive", { drive_id: "x" }, "1.16.0", "before", /^FC_STATE/],
  [
    "createSnapshot",
    { snapshot_path: "/s", mem_file_path: "/m" },
    "1.16.0",
    "running",
    /^FC_STATE .*while paused/,
  ],
  ["createSnapshot", { snapshot_path: "/s", mem_file_path: "/m" }, "1.16.0", "paused"],
  ["mmds", undefined, "1.16.0", "before"],
  ["putMmds", { anything: { at: "all" } }, "1.16.0", "paused"],
  // What the VMM does not check, or tells badly
  ["putVsock", { guest_cid: 2, uds_path: "/v" }, "1.16.0", "before", /^FC_ARGUMENT guest_cid/],
  ["putVsock", { guest_cid: 3, uds_path: "/v" }, "1.16.0", "before"],
  ["loadSnapshot", { snapshot_path: "/s" }, "1.16.0", "before", /^FC_ARGUMENT mem_backend/],
  ["loadSnapshot", { ...load, mem_file_path: "/m" }, "1.16.0", "before", /^FC_ARGUMENT mem_backend/],
  ["patchMachineConfig", {}, "1.16.0", "before", /^FC_ARGUMENT/],
];

test("check-request: what may be sent, to which version, in which phase", () => {
  for (const [name, body, version, phase, expected] of rows) {
    const found = verdict(name, body, version, phase);
    const row = `${name} ${JSON.stringify(body)} ${version} ${phase}: ${found}`;
    if (expected === undefined) assert.equal(found, undefined, row);
    else assert.match(found ?? "sent", expected, row);
  }
});

test("requestPath: an id is nothing but letters, digits and _", () => {
  assert.equal(requestPath(operations.putDrive, "a_1"), "/drives/a_1");
  for (const id of ["", "a-1", "../vm", "a/b", "a b", "é", undefined, 1])
    assert.throws(() => requestPath(operations.putDrive, id), { code: "FC_ARGUMENT", field: "drive_id" });
});

test("translatePaths: every path of every body, with its use", async () => {
  const translated = async (name: OperationName, body: Body, hints?: Body): Promise<Body> =>
    translatePaths(operations[name].body ?? {}, body, (path, use) => `${use}:${path}`, hints);
  const cases: readonly (readonly [OperationName, Body, Body, Body?])[] = [
    [
      "putBootSource",
      { kernel_image_path: "/k", initrd_path: "/i", boot_args: "/x" },
      { kernel_image_path: "read:/k", initrd_path: "read:/i", boot_args: "/x" },
    ],
    ["putDrive", { path_on_host: "/d", is_read_only: true }, { path_on_host: "read:/d", is_read_only: true }],
    ["putDrive", { path_on_host: "/d" }, { path_on_host: "write:/d" }],
    ["putDrive", { socket: "/d" }, { socket: "connect:/d" }],
    ["patchDrive", { path_on_host: "/d" }, { path_on_host: "read:/d" }, { is_read_only: true }],
    ["putPmem", { path_on_host: "/d", read_only: true }, { path_on_host: "read:/d", read_only: true }],
    ["putVsock", { uds_path: "/v" }, { uds_path: "bind:/v" }],
    ["putLogger", { log_path: "/l" }, { log_path: "output:/l" }],
    ["putMetrics", { metrics_path: "/l" }, { metrics_path: "output:/l" }],
    ["putSerial", { serial_out_path: "/l" }, { serial_out_path: "output:/l" }],
    [
      "createSnapshot",
      { snapshot_path: "/s", mem_file_path: "/m" },
      { snapshot_path: "output:/s", mem_file_path: "output:/m" },
    ],
    [
      "loadSnapshot",
      {
        snapshot_path: "/s",
        mem_backend: { backend_type: "Uffd", backend_path: "/u" },
        vsock_override: { uds_path: "/v" },
      },
      {
        snapshot_path: "read:/s",
        mem_backend: { backend_type: "Uffd", backend_path: "connect:/u" },
        vsock_override: { uds_path: "bind:/v" },
      },
    ],
    ["loadSnapshot", { mem_file_path: "/m" }, { mem_file_path: "read:/m" }],
  ];
  for (const [name, body, expected, hints] of cases)
    assert.deepEqual(await translated(name, body, hints), expected);
});
