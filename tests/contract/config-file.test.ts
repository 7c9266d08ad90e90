// --config-file: the whole machine in one file, which starts at once or ends the process.
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { kernel } from "./harness/binary.ts";
import { AnyOrder } from "./harness/contains.ts";
import { bootArgs, Guest } from "./harness/guest.ts";
import { afterStart, get, refused, runRows } from "./harness/rows.ts";
import { spawnProgram } from "./harness/vmm.ts";

const directory = mkdtempSync("/tmp/contract-config-");
after(() => rmSync(directory, { recursive: true, force: true }));
writeFileSync(join(directory, "disk.img"), Buffer.alloc(4096));

const good = { "boot-source": { kernel_image_path: kernel, boot_args: bootArgs }, drives: [] };

/** Starts it with this file; how it ends, which it has to. */
async function end(content: unknown, args: readonly string[]): Promise<{ status: unknown; said: string }> {
  const file = join(directory, "config.json");
  writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
  const child = spawnProgram([...args, "--config-file", file], directory);
  let said = "";
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
  const timer = setTimeout(() => child.kill("SIGKILL"), 30_000);
  const [code, signal] = await once(child, "close");
  clearTimeout(timer);
  return { status: code ?? signal, said };
}

const cases: readonly (readonly [unknown, RegExp])[] = [
  ["", /EOF while parsing a value/],
  ["{", /EOF while parsing an object/],
  [{ drives: [] }, /missing field `boot-source`/],
  [{ "boot-source": { kernel_image_path: kernel } }, /missing field `drives`/],
  [{ ...good, drives: null }, /null, expected a sequence/],
  ['{"drives":[],"drives":[]}', /duplicate field `drives`/],
  [{ ...good, "boot-source": { kernel_image_path: "/nope" } }, /kernel file cannot be opened/],
  [{ ...good, "boot-source": { kernel_image_path: join(directory, "disk.img") } }, /kernel/i],
  [{ ...good, drives: [{ drive_id: "a" }] }, /missing field `is_root_device`/],
  [
    { ...good, drives: [{ drive_id: "a", is_root_device: false, path_on_host: "/nope" }] },
    /backing file: No such file/,
  ],
  [{ ...good, "machine-config": { vcpu_count: 0, mem_size_mib: 128 } }, /vCPUs/],
  [{ ...good, "network-interfaces": [{ iface_id: "a", host_dev_name: "lo" }] }, /Open tap device failed/],
  [{ ...good, "mmds-config": { network_interfaces: ["x"] } }, /network interface/],
  [{ ...good, vsock: { guest_cid: 3, uds_path: "/nope/v" } }, /vsock/i],
  [{ ...good, balloon: { amount_mib: 4096, deflate_on_oom: true } }, /too large/],
  [{ ...good, "cpu-config": { x: 1 } }, /cpu|Cpu|unknown field/],
  [{ ...good, "cpu-config": "/nope" }, /No such file/],
  [{ ...good, logger: { log_path: "/nope/log" } }, /No such file/],
  [{ ...good, metrics: { metrics_path: "/nope/metrics" } }, /No such file/],
  [{ ...good, "memory-hotplug": { total_size_mib: 1 } }, /[Tt]otal size|lower than/],
];

test("config-file: what is wrong in it ends the process with 1, and is named", async () => {
  for (const [content, says] of cases) {
    const { status, said } = await end(content, ["--no-api"]);
    const what = `${JSON.stringify(content)}: ${said}`;
    assert.equal(status, 1, what);
    assert.match(said, says, what);
  }
  const { status } = await end(cases[2]?.[0], ["--api-sock", join(directory, "api.sock")]);
  assert.equal(status, 1);
});

test("config-file: the machine runs, and its API answers what it answers after a start", async () => {
  await using guest = await Guest.fromConfig({
    "machine-config": { vcpu_count: 1, mem_size_mib: 200 },
    drives: [
      { drive_id: "a", is_root_device: false, path_on_host: "DIR/disk.img", is_read_only: true },
      { drive_id: "r", is_root_device: true, path_on_host: "DIR/disk2.img", partuuid: null },
    ],
    entropy: {},
    vsock: { guest_cid: 3, uds_path: "DIR/v" },
    "cpu-config": {},
    logger: { log_path: "DIR/log", level: "Warning" },
    metrics: { metrics_path: "DIR/metrics" },
    pmem: [],
    balloon: null,
    "not known": { at: "all" },
  });
  await runRows(guest.vmm, [
    get("/", { state: "Running" }),
    get("/vm/config", {
      "machine-config": { mem_size_mib: 200 },
      drives: new AnyOrder({ drive_id: "r" }, { drive_id: "a", is_read_only: true }),
      vsock: { guest_cid: 3, uds_path: "DIR/v" },
      entropy: { rate_limiter: null },
      logger: null,
      metrics: null,
    }),
    refused("PUT /actions", { action_type: "InstanceStart" }, afterStart),
  ]);
  assert.ok(existsSync(join(guest.vmm.directory, "log")));
  assert.match(await guest.run("cat /proc/cmdline"), /root=\/dev\/vda rw/);
  assert.equal(await guest.run("cat /sys/block/vda/size /sys/block/vdb/size"), `${16 << 10}\n${8 << 10}`);
});
