// A running machine: what was configured is there in the guest, what may be asked of it now and what not. One guest for all.
import assert from "node:assert/strict";
import { closeSync, openSync, readFileSync, readSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { guestVcpus } from "./harness/binary.ts";
import { Connection } from "./harness/connection.ts";
import { AnyOrder } from "./harness/contains.ts";
import { bootArgs, Guest } from "./harness/guest.ts";
import { afterStart, get, patch, put, type Row, refused, runRows } from "./harness/rows.ts";

let guest: Guest;
const inDirectory = (name: string): string => join(guest.vmm.directory, name);
const rows = (...all: readonly Row[]): Promise<void> => runRows(guest.vmm, all);
const mac = "aa:fc:00:00:00:05";
const sectorsOf = (mib: number): string => String(mib * 2048);

/** Waits until the guest has heard of a drive's new size, which it does a little after the answer. */
async function hasSectors(device: string, sectors: string): Promise<void> {
  const size = `/sys/block/${device}/size`;
  await guest.run(
    `timeout 20 sh -c 'until [ "$(cat ${size})" = ${sectors} ]; do usleep 1000; done'; cat ${size}`,
  );
  assert.equal(await guest.run(`cat ${size}`), sectors);
}

before(async () => {
  guest = await Guest.prepare(["--id", "running", "--metrics-path", "metrics"]);
  await rows(
    put("/machine-config", { vcpu_count: guestVcpus, mem_size_mib: 256, track_dirty_pages: true }),
    put("/drives/a", { drive_id: "a", is_root_device: false, path_on_host: "DIR/disk.img" }),
    put("/drives/r", {
      drive_id: "r",
      is_root_device: false,
      path_on_host: "DIR/disk2.img",
      is_read_only: true,
    }),
    put("/network-interfaces/n", {
      iface_id: "n",
      host_dev_name: `cr${process.pid % 1_000_000}`,
      guest_mac: mac,
      mtu: 1400,
    }),
    put("/vsock", { guest_cid: 7, uds_path: "DIR/vsock" }),
    put("/entropy", {}),
  );
  await guest.start();
});
after(() => guest?.vmm.stop());

test("machine-config and boot-source: processors, memory and command line are the guest's", async () => {
  assert.equal(await guest.run("nproc"), String(guestVcpus));
  const kib = Number(/MemTotal:\s+(\d+)/.exec(await guest.run("cat /proc/meminfo"))?.[1]);
  assert.ok(kib > 180 * 1024 && kib < 256 * 1024, `${kib} KiB`);
  assert.match(await guest.run("cat /proc/cmdline"), new RegExp(`^${bootArgs} .*pci=off`));
});

test("drives: size, order, what is written and what cannot be", async () => {
  assert.equal(
    await guest.run("cat /sys/block/vda/size /sys/block/vdb/size"),
    `${sectorsOf(4)}\n${sectorsOf(8)}`,
  );
  assert.equal(await guest.run("cat /sys/block/vda/ro /sys/block/vdb/ro"), "0\n1");
  const fd = openSync(inDirectory("disk2.img"), "r+");
  writeSync(fd, "from the host", 512);
  closeSync(fd);
  assert.equal(
    await guest.run("dd if=/dev/vdb bs=512 skip=1 count=1 2>/dev/null | head -c 13"),
    "from the host",
  );
  await guest.run("echo from the guest | dd of=/dev/vda bs=512 seek=2 conv=notrunc 2>/dev/null && sync");
  const found = Buffer.alloc(14);
  const written = openSync(inDirectory("disk.img"), "r");
  readSync(written, found, 0, found.length, 1024);
  closeSync(written);
  assert.equal(found.toString(), "from the guest");
  assert.notEqual((await guest.result(guest.type("echo x >/dev/vdb"))).status, 0);
});

test("network-interfaces and entropy: the guest has them as they were put", async () => {
  assert.equal(await guest.run("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu"), `${mac}\n1400`);
  assert.match(await guest.run("cat /sys/class/misc/hw_random/rng_current"), /^virtio_rng/);
  assert.equal(await guest.run("head -c 64 /dev/hwrng | wc -c"), "64");
});

test("vsock: a port where nobody listens closes the connection", async () => {
  const connection = await Connection.open(inDirectory("vsock"));
  connection.write("CONNECT 9999\n");
  assert.ok(await connection.closes());
  connection.close();
});

test("instance: what it is now", async () => {
  await rows(
    get("/", { id: "running", state: "Running", app_name: "Firecracker" }),
    get("/machine-config", { vcpu_count: guestVcpus, mem_size_mib: 256, track_dirty_pages: true }),
    get("/vm/config", {
      "boot-source": { boot_args: bootArgs, initrd_path: "DIR/initrd" },
      drives: new AnyOrder({ drive_id: "a" }, { drive_id: "r", is_read_only: true }),
      "network-interfaces": [{ iface_id: "n", guest_mac: mac, mtu: 1400 }],
      vsock: { guest_cid: 7, uds_path: "DIR/vsock" },
      entropy: { rate_limiter: null },
    }),
  );
});

test("everything that only a machine before its start takes is refused, after its body was read", async () => {
  const late = (path: string, body: unknown, rest: Partial<Row> = {}): Row =>
    refused(`PUT ${path}`, body, afterStart, rest);
  const isDeprecated = { isDeprecated: true } as const;
  await rows(
    late("/actions", { action_type: "InstanceStart" }),
    late("/machine-config", { vcpu_count: 1, mem_size_mib: 128 }),
    late("/machine-config", { vcpu_count: 1, mem_size_mib: 128, cpu_template: "None" }, isDeprecated),
    refused("PATCH /machine-config", { mem_size_mib: 128 }, afterStart),
    refused("PATCH /machine-config", {}, /Empty PATCH request/),
    late("/boot-source", { kernel_image_path: "/nope" }),
    late("/cpu-config", {}),
    late("/logger", {}),
    late("/metrics", { metrics_path: "DIR/m" }),
    late("/serial", {}),
    late("/vsock", { guest_cid: 3, uds_path: "/nope/v" }),
    late("/vsock", { guest_cid: 3, uds_path: "/nope/v", vsock_id: "v" }, isDeprecated),
    late("/entropy", {}),
    late("/balloon", { amount_mib: 0, deflate_on_oom: true }),
    late("/hotplug/memory", { total_size_mib: 128 }),
    late("/mmds/config", { network_interfaces: ["n"], version: "V2" }),
    late("/mmds/config", { network_interfaces: ["n"] }, isDeprecated),
    late("/snapshot/load", { snapshot_path: "x", mem_backend: { backend_path: "y", backend_type: "File" } }),
    late("/snapshot/load", { snapshot_path: "x", mem_file_path: "y" }, isDeprecated),
    refused("PUT /boot-source", {}, /missing field `kernel_image_path`/),
    refused("PUT /entropy", { x: 1 }, /unknown field `x`/),
    refused("PUT /mmds/config", {}, /missing field `network_interfaces`/),
    refused("PUT /snapshot/load", {}, /missing field `snapshot_path`/),
  );
});

test("devices that are not there", async () => {
  const missing = /[Dd]evice not found/;
  const bucket = { size: 1000, refill_time: 100 };
  await rows(
    refused("GET /balloon", undefined, missing),
    refused("GET /balloon/statistics", undefined, missing),
    refused("GET /balloon/hinting/status", undefined, missing),
    refused("PATCH /balloon", { amount_mib: 1 }, missing),
    refused("PATCH /balloon/statistics", { stats_polling_interval_s: 1 }, missing),
    refused("PATCH /balloon/hinting/start", undefined, missing),
    refused("PATCH /balloon/hinting/start", {}, missing),
    refused("PATCH /balloon/hinting/stop", undefined, missing),
    refused("GET /hotplug/memory", undefined, missing),
    refused("PATCH /hotplug/memory", { requested_size_mib: 128 }, missing),
    refused("PATCH /drives/x", { drive_id: "x" }, missing),
    refused("PATCH /drives/x", { drive_id: "x", path_on_host: "/nope" }, missing),
    refused("PATCH /network-interfaces/x", { iface_id: "x" }, missing),
    refused("PATCH /network-interfaces/x", { iface_id: "x", rx_rate_limiter: { ops: bucket } }, missing),
    refused("PATCH /pmem/x", { id: "x", rate_limiter: { ops: bucket } }, missing),
    // Nothing is to be changed, so nobody looks for it.
    patch("/pmem/x", { id: "x" }),
    refused("GET /mmds", undefined, /not initialized/),
    refused("PUT /mmds", {}, /not initialized/),
    refused("PATCH /mmds", {}, /not initialized/),
    refused("PUT /mmds", "x", /expected value/),
  );
});

test("devices are plugged in and out by PCI, which is not enabled", async () => {
  const none = /PCI is not enabled/;
  const drive = { drive_id: "x", is_root_device: false, path_on_host: "/nope" };
  await rows(
    refused("PUT /drives/x", drive, none),
    refused("PUT /drives/a", { ...drive, drive_id: "a" }, none),
    refused("PUT /network-interfaces/x", { iface_id: "x", host_dev_name: "lo" }, none),
    refused("PUT /pmem/x", { id: "x", path_on_host: "/nope" }, none),
    refused("DELETE /drives/a", undefined, none),
    refused("DELETE /drives/x", undefined, none),
    refused("DELETE /network-interfaces/n", undefined, none),
    refused("DELETE /pmem/x", undefined, none),
    refused("DELETE /drives/a-b", undefined, /alphanumeric/),
    refused("PUT /drives/x", { drive_id: "x" }, /missing field `is_root_device`/),
  );
});

test("drives: PATCH gives one another file, and the guest sees its size and contents", async () => {
  const path = (id: string, name: string): Row =>
    patch(`/drives/${id}`, { drive_id: id, path_on_host: `DIR/${name}` });
  await rows(
    path("a", "disk2.img"),
    get("/vm/config", {
      drives: new AnyOrder({ drive_id: "a", path_on_host: "DIR/disk2.img" }, { drive_id: "r" }),
    }),
  );
  await hasSectors("vda", sectorsOf(8));
  assert.equal(
    await guest.run("dd if=/dev/vda bs=512 skip=1 count=1 2>/dev/null | head -c 13"),
    "from the host",
  );
  // The last bytes, which are no whole sector, are not the guest's.
  await rows(path("r", "odd.img"));
  await hasSectors("vdb", "1");
  assert.equal(statSync(inDirectory("odd.img")).size, 1000);
  await rows(
    refused("PATCH /drives/a", { drive_id: "a", path_on_host: "DIR/nope" }, /backing file: No such file/),
    refused("PATCH /drives/a", { drive_id: "a", path_on_host: "DIR" }, /backing file: Is a directory/),
    refused("PATCH /drives/a", { drive_id: "a" }, /backend/),
    refused("PATCH /drives/a", { drive_id: "b", path_on_host: "DIR/disk.img" }, /id from the path/),
    get("/vm/config", {
      drives: new AnyOrder({ path_on_host: "DIR/disk2.img" }, { path_on_host: "DIR/odd.img" }),
    }),
    path("a", "disk.img"),
    path("r", "disk2.img"),
  );
  await hasSectors("vda", sectorsOf(4));
  await hasSectors("vdb", sectorsOf(8));
});

test("vm: paused, it does nothing but answer; both states can be asked for twice", async () => {
  await rows(patch("/vm", { state: "Resumed" }), get("/", { state: "Running" }));
  await rows(
    patch("/vm", { state: "Paused" }),
    patch("/vm", { state: "Paused" }),
    get("/", { state: "Paused" }),
  );
  const from = guest.vmm.output.length;
  const command = guest.type("echo awake");
  for (let round = 0; round < 50; round++) await rows(get("/", { state: "Paused" }));
  assert.doesNotMatch(guest.vmm.output.slice(from), /awake/);
  await rows(
    get("/vm/config", { drives: new AnyOrder({ drive_id: "a" }, { drive_id: "r" }) }),
    patch("/drives/r", { drive_id: "r", path_on_host: "DIR/disk.img" }),
    patch("/vm", { state: "Resumed" }),
    get("/", { state: "Running" }),
  );
  assert.equal((await guest.result(command)).output, "awake");
  await hasSectors("vdb", sectorsOf(4));
});

test("snapshot: only a paused machine's can be made", async () => {
  const create = { snapshot_path: "DIR/s", mem_file_path: "DIR/m" };
  await rows(
    refused("PUT /snapshot/create", create, /Create snapshot error|not supported/),
    refused("PUT /snapshot/create", {}, /missing field `snapshot_path`/),
    get("/", { state: "Running" }),
  );
});

test("actions: FlushMetrics writes a line of JSON", async () => {
  await rows(put("/actions", { action_type: "FlushMetrics" }));
  const lines = readFileSync(inDirectory("metrics"), "utf8").trim().split("\n");
  const last: unknown = JSON.parse(lines.at(-1) ?? "");
  assert.ok(
    typeof last === "object" && last !== null && "put_api_requests" in last,
    lines.at(-1)?.slice(0, 500),
  );
});

test("the guest's reset ends the process, with 0", async () => {
  guest.type("reboot -f");
  assert.deepEqual(await guest.vmm.end(), { exitCode: 0, signal: null });
  assert.match(guest.vmm.output, /exiting successfully\. exit_code=0/);
});
