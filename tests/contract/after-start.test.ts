// Calls that a running machine answers as one that is not started does: what was configured can be read, and the metadata be written.
import { test } from "node:test";
import { Guest } from "./harness/guest.ts";
import { get, patch, put, refused, runRows } from "./harness/rows.ts";

test("after the start: the balloon, its statistics' interval, the metadata and the version", async () => {
  await using guest = await Guest.prepare();
  const { vmm } = guest;
  const interfaces = ["eth0"];
  await vmm.put("/machine-config", { vcpu_count: 1, mem_size_mib: 256 });
  // A tap that nobody has made: it comes and goes with the machine.
  await vmm.put("/network-interfaces/eth0", {
    iface_id: "eth0",
    host_dev_name: `fca${process.pid % 1_000_000}`,
  });
  await vmm.put("/mmds/config", { network_interfaces: interfaces, version: "V2" });
  await vmm.put("/balloon", { amount_mib: 8, deflate_on_oom: true, stats_polling_interval_s: 1 });
  await guest.start();
  await runRows(vmm, [
    get("/version", {}),
    get("/balloon", { amount_mib: 8, deflate_on_oom: true, stats_polling_interval_s: 1 }),
    patch("/balloon/statistics", { stats_polling_interval_s: 2 }),
    patch("/balloon", { amount_mib: 16 }),
    get("/balloon", { amount_mib: 16, stats_polling_interval_s: 2 }),
    get("/mmds", {}),
    put("/mmds", { a: { b: 1 }, c: "d" }),
    patch("/mmds", { a: { b: null, e: 2 } }),
    get("/mmds", { a: { e: 2 }, c: "d" }),
    refused("PUT /mmds", "[1", /json|deserialized/i),
    refused(
      "PUT /mmds/config",
      { network_interfaces: interfaces, version: "V2" },
      /after starting the microVM/,
    ),
    get("/vm/config", {
      "mmds-config": { version: "V2", network_interfaces: interfaces },
      balloon: { amount_mib: 16 },
    }),
    patch("/vm", { state: "Paused" }),
    put(
      "/snapshot/create",
      { snapshot_type: "Diff", snapshot_path: "DIR/state", mem_file_path: "DIR/memory" },
      204,
      {
        unsupportedBy: "firecracker-qemu",
      },
    ),
    patch("/vm", { state: "Resumed" }),
  ]);
});
