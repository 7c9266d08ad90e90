// The balloon, drives' limits, the serial port's file, entropy, metrics and Ctrl-Alt-Del of a running machine.
import assert from "node:assert/strict";
import { readFileSync, renameSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { guestVcpus, isProgram } from "./harness/binary.ts";
import { Guest } from "./harness/guest.ts";

let guest: Guest;

before(async () => {
  guest = await Guest.prepare();
  const { vmm } = guest;
  await vmm.put("/machine-config", { vcpu_count: guestVcpus, mem_size_mib: 256 });
  await vmm.put("/drives/slow", {
    drive_id: "slow",
    is_root_device: false,
    path_on_host: join(vmm.directory, "disk2.img"),
    // A bucket of 2 MiB, and hardly more for a long time
    rate_limiter: { bandwidth: { size: 2 << 20, refill_time: 3_600_000 } },
  });
  await vmm.put("/balloon", { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 1 });
  await vmm.put("/entropy", { rate_limiter: { bandwidth: { size: 1000, refill_time: 3_600_000 } } });
  await vmm.put("/metrics", {
    metrics_path: join(vmm.directory, "metrics"),
    emit_id: true,
    properties: { site: "b", rack: "a" },
  });
  // The file was opened by PUT: what becomes of its path does not matter.
  renameSync(join(vmm.directory, "disk2.img"), join(vmm.directory, "moved.img"));
  await guest.start();
});
after(() => guest?.vmm.stop());

const free = async (): Promise<number> =>
  Number(/MemAvailable:\s+(\d+)/.exec(await guest.run("cat /proc/meminfo"))?.[1]) / 1024;

test("balloon: PATCH takes memory from the guest and gives it back, and the statistics tell", async () => {
  const { vmm } = guest;
  const before = await free();
  await vmm.put("/balloon", { amount_mib: 64 }, "PATCH");
  const shown = async (): Promise<Record<string, number>> => {
    const all = await vmm.get("/balloon/statistics");
    return Object.fromEntries(Object.entries(all ?? {}).map(([name, value]) => [name, Number(value)]));
  };
  const reaches = async (mib: number): Promise<Record<string, number>> => {
    for (;;) {
      const now = await shown();
      if (now["actual_mib"] === mib && (now["total_memory"] ?? 0) > 0) return now;
      // The guest's own time; the runner's limit ends it.
      await guest.run("sleep 0.1");
    }
  };
  const held = await reaches(64);
  assert.equal(held["target_pages"], (64 << 20) / 4096);
  assert.ok((held["total_memory"] ?? 0) > 100 << 20);
  assert.ok((await free()) < before - 50, `${await free()} MiB of ${before}`);
  await vmm.put("/balloon", { amount_mib: 0 }, "PATCH");
  await reaches(0);
  assert.ok((await free()) > before - 20);
  assert.equal((await vmm.send("PATCH", "/balloon", '{"amount_mib":257}')).status, 400);
  assert.match(
    (await vmm.send("PATCH", "/balloon/statistics", '{"stats_polling_interval_s":0}')).text,
    /statistics/i,
  );
});

/** Reads `mib` MiB past the cache, in the background: the guest cannot kill it while the drive owes it something. */
async function startRead(mib: number): Promise<void> {
  await guest.run(`dd if=/dev/vda of=/dev/null bs=1M count=${mib} iflag=direct 2>/dev/null & reader=$!`);
}

/** Whether the last read ends within two seconds of the guest's. */
async function readEnds(): Promise<boolean> {
  const left = await guest.run(
    "tries=0; while [ $tries -lt 20 ] && kill -0 $reader 2>/dev/null; do sleep 0.1; tries=$((tries+1)); done; echo $tries",
  );
  return Number(left) < 20;
}

/** Waits for the last read. @throws when it failed */
async function readDone(): Promise<void> {
  await guest.run("wait $reader");
}

test("drives: a rate limiter holds reads back; PATCH with size 0 removes it", async () => {
  const setLimit = (rate_limiter: object): Promise<void> =>
    guest.vmm.put("/drives/slow", { drive_id: "slow", rate_limiter }, "PATCH");
  await startRead(1);
  await readDone();
  await startRead(6);
  assert.equal(await readEnds(), false);
  await setLimit({ bandwidth: { size: 0, refill_time: 0 } });
  await readDone();
  await setLimit({ ops: { size: 3, refill_time: 3_600_000 } });
  await startRead(8);
  assert.equal(await readEnds(), false);
  const config = await guest.vmm.get("/vm/config");
  assert.match(
    JSON.stringify(config),
    /"rate_limiter":\{"bandwidth":null,"ops":\{"size":3,"one_time_burst":null,"refill_time":3600000\}\}/,
  );
  await setLimit({ ops: { size: 0, refill_time: 0 } });
  await readDone();
});

test("drives: PATCH swaps the file, and the guest sees its size and content", async () => {
  await guest.vmm.put(
    "/drives/slow",
    { drive_id: "slow", path_on_host: join(guest.vmm.directory, "disk.img") },
    "PATCH",
  );
  assert.equal(await guest.run("cat /sys/block/vda/size"), String((4 << 20) / 512));
});

test("entropy: the device gives as much as its bucket has", async () => {
  const take = "timeout 2 dd if=/dev/hwrng of=/dev/null bs=64 count=40 2>&1 | grep -c records; true";
  await guest.run(take);
  const { status } = await guest.result(
    guest.type("timeout 2 dd if=/dev/hwrng of=/dev/null bs=64 count=40 2>/dev/null"),
  );
  assert.notEqual(status, 0, "a bucket of 1000 bytes is empty after 40 times 64");
});

test("metrics: a line at the start, then every group in each line, with the guest's own counts", async () => {
  const path = join(guest.vmm.directory, "metrics");
  const lines = (): string[] => readFileSync(path, "utf8").trim().split("\n");
  await guest.run("dd if=/dev/zero of=/dev/vda bs=4096 count=16 oflag=direct 2>/dev/null");
  await guest.vmm.put("/actions", { action_type: "FlushMetrics" });
  const first = JSON.parse(lines()[0] ?? "");
  assert.equal(first.put_api_requests.drive_count, 1, "what was asked for before the start");
  assert.equal(first.patch_api_requests.drive_count, 0);
  const line = JSON.parse(lines().at(-1) ?? "");
  assert.equal(line.id, "anonymous-instance");
  assert.deepEqual(line.properties, { rack: "a", site: "b" });
  assert.ok(line.block_slow.write_bytes >= 65_536, JSON.stringify(line.block_slow));
  assert.equal(line.block.write_bytes, line.block_slow.write_bytes);
  assert.equal(line.put_api_requests.drive_count, 0);
  assert.equal(typeof line.vcpu.exit_io_in, "number");
  for (const group of ["api_server", "balloon", "i8042", "uart", "latencies_us", "mmds", "net", "vsock"])
    assert.equal(typeof line[group], "object", group);
  await guest.vmm.put("/actions", { action_type: "FlushMetrics" });
  assert.equal(JSON.parse(lines().at(-1) ?? "").block_slow.write_bytes, 0, "counters begin again");
});

test("QEMU runs confined: as a user of its own, with a seccomp filter and no new privileges", {
  skip: !isProgram("firecracker-qemu"),
}, async () => {
  const parent = guest.vmm.child.pid;
  const children = readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").trim().split(" ");
  const qemu = children.find((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("qemu")) ?? "";
  const status = readFileSync(`/proc/${qemu}/status`, "utf8");
  const field = (name: string): string[] =>
    (new RegExp(`^${name}:\\s+(.*)$`, "m").exec(status)?.[1] ?? "").split(/\s+/);
  if (process.getuid?.() === 0) for (const id of field("Uid")) assert.ok(Number(id) >= 65_534, `uid ${id}`);
  assert.deepEqual(field("CapEff"), ["0000000000000000"]);
  assert.deepEqual(field("NoNewPrivs"), ["1"]);
  assert.deepEqual(field("Seccomp"), ["2"]);
});

test("SendCtrlAltDel: the guest resets, and the program ends with status 0 and a last line of metrics", async (context) => {
  const { vmm } = guest;
  const drivers = await guest.run("ls /sys/bus/serio/drivers; true");
  if (!drivers.includes("atkbd")) {
    context.skip("the guest's kernel has no keyboard driver");
    return;
  }
  const path = join(vmm.directory, "metrics");
  const before = statSync(path).size;
  await vmm.put("/actions", { action_type: "SendCtrlAltDel" });
  assert.deepEqual(await vmm.end(), { exitCode: 0, signal: null });
  assert.ok(statSync(path).size > before);
});
