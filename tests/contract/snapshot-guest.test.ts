// A running machine into two files and out of them, in new processes, also two side by side.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { bootArgs, Guest } from "./harness/guest.ts";
import { addProbe, installProbe } from "./harness/guest-probe.ts";
import { spawnProgram, Vmm } from "./harness/vmm.ts";

const taps = ["a", "b", "c"].map((name) => `fcs${process.pid % 1_000_000}${name}`);
const [tap = "", second = "", third = ""] = taps;
const mib = 256;
let guest: Guest;
let directory = "";
let state = "";
let memory = "";

const ip = (...args: readonly string[]): string => execFileSync("ip", args, { encoding: "utf8" });

before(async () => {
  for (const name of taps) {
    ip("tuntap", "add", "dev", name, "mode", "tap");
    ip("link", "set", name, "up");
  }
  // clock_realtime moves KVM's clock; where there is no KVM, the time stamp counter, which the guest then has to keep to.
  guest = await Guest.prepare([], `${bootArgs} tsc=reliable clocksource=kvm-clock`);
  const { vmm } = guest;
  directory = vmm.directory;
  [state, memory] = [join(directory, "state"), join(directory, "memory")];
  await vmm.put("/machine-config", { vcpu_count: 1, mem_size_mib: mib });
  await addProbe(guest);
  await vmm.put("/drives/data", {
    drive_id: "data",
    is_root_device: false,
    path_on_host: join(directory, "disk.img"),
  });
  await vmm.put("/network-interfaces/eth0", {
    iface_id: "eth0",
    host_dev_name: tap,
    guest_mac: "06:00:00:00:00:01",
  });
  await vmm.put("/mmds/config", { version: "V2", network_interfaces: ["eth0"] });
  await vmm.put("/vsock", { guest_cid: 3, uds_path: join(directory, "v.sock") });
  await vmm.put("/balloon", { amount_mib: 16, deflate_on_oom: true });
  await vmm.put("/entropy", {});
  await guest.start();
  await installProbe(guest);
  await guest.run(
    "ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0; ip route add 169.254.169.254 dev eth0",
  );
  // A clone is asked over vsock: the serial port's state is not in a snapshot.
  for (const service of ["echo 700", "shell 701"]) {
    const from = vmm.output.length;
    guest.type(`guest-probe ${service} &`);
    await vmm.said(/listening/, from);
  }
});
after(async () => {
  await guest?.vmm.stop();
  for (const name of taps) ip("link", "del", name);
});

/** What the guest answers on its port 700: what it is sent. */
function echo(uds: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(uds);
    let text = "";
    socket.setEncoding("utf8").on("data", (part: string) => {
      if (text === "") socket.write("ping");
      text += part;
      if (text.endsWith("ping")) {
        socket.destroy();
        resolve(text);
      }
    });
    socket.on("error", reject);
    socket.on("close", () => reject(new Error(`closed after ${JSON.stringify(text)}`)));
    socket.write("CONNECT 700\n");
  });
}

/** What a command says in the guest behind `uds`. */
async function run(uds: string, command: string): Promise<string> {
  const socket = connect(uds);
  socket.write(`CONNECT 701\n${command}\n`);
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk);
  const [, output = ""] = /^OK \d+\n([\s\S]*)$/.exec(Buffer.concat(chunks).toString()) ?? [];
  return output.replaceAll("\r", "").trim();
}

test("snapshot/create: only of a paused machine, only Full; both files are there afterwards", async () => {
  const { vmm } = guest;
  const body = { snapshot_path: state, mem_file_path: memory };
  assert.equal((await vmm.send("PUT", "/snapshot/create", JSON.stringify(body))).status, 400);
  assert.ok(!existsSync(state));
  await guest.run(
    "mkdir -p /tmp; echo before >/tmp/mark; echo on-disk | dd of=/dev/vdb conv=fsync 2>/dev/null",
  );
  const server = createServer();
  const accepted = new Promise<Socket>((resolve) => server.once("connection", resolve));
  server.listen(join(directory, "v.sock_801"));
  const dial = guest.type("guest-probe count 801 100000000");
  const socket = await accepted;
  const closed = new Promise((resolve) => socket.once("close", resolve));
  await new Promise((resolve) => socket.once("data", resolve));
  await vmm.put("/vm", { state: "Paused" }, "PATCH");
  await vmm.put("/snapshot/create", body);
  assert.equal(statSync(memory).size, mib << 20);
  assert.ok(statSync(state).size > 1000);
  copyFileSync(join(directory, "disk.img"), join(directory, "disk-then.img"));
  await vmm.put("/vm", { state: "Resumed" }, "PATCH");
  // The connection that was open is over for the guest, and for the host when it next sends; the guest's listener is not.
  assert.notEqual((await guest.result(dial)).status, 0);
  socket.on("error", () => {}).write("anybody?");
  await closed;
  server.close();
  assert.match(await echo(join(directory, "v.sock")), /^OK \d+\nping$/);
  assert.equal(await guest.run("cat /tmp/mark"), "before");
});

test("--describe-snapshot and --snapshot-version: the version of the file's format", async () => {
  const says = async (...args: readonly string[]): Promise<string> => {
    const child = spawnProgram(args, guest.vmm.directory);
    let text = "";
    child.stdout?.setEncoding("utf8").on("data", (part: string) => {
      text += part;
    });
    await new Promise((resolve) => child.once("close", resolve));
    return text;
  };
  assert.match(await says("--describe-snapshot", state), /^v\d+\.\d+\.\d+\n/);
  assert.equal(
    (await says("--describe-snapshot", state)).split("\n")[0],
    (await says("--snapshot-version")).split("\n")[0],
  );
});

/** A new process in which the snapshot is loaded. */
async function load(name: string, tapName: string, more: object): Promise<{ vmm: Vmm; uds: string }> {
  const vmm = await Vmm.start();
  const uds = join(vmm.directory, `${name}.sock`);
  await vmm.put("/snapshot/load", {
    snapshot_path: state,
    mem_backend: { backend_type: "File", backend_path: memory },
    network_overrides: [{ iface_id: "eth0", host_dev_name: tapName }],
    vsock_override: { uds_path: uds },
    ...more,
  });
  return { vmm, uds };
}

test("snapshot/load: two clones run side by side, each with its own memory, tap and vsock", async () => {
  const one = await load("one", second, { resume_vm: true });
  const two = await load("two", third, { clock_realtime: true });
  try {
    assert.equal(Reflect.get(Object(await one.vmm.get("/")), "state"), "Running");
    assert.equal(Reflect.get(Object(await two.vmm.get("/")), "state"), "Paused");
    await two.vmm.put("/mmds", { hello: "clone" });
    await two.vmm.put("/vm", { state: "Resumed" }, "PATCH");
    for (const { vmm, uds } of [one, two]) {
      // Its listener is still there, under the new socket.
      assert.match(await echo(uds), /^OK \d+\nping$/);
      const config = JSON.stringify(await vmm.get("/vm/config"));
      assert.match(config, /"mem_size_mib":256/);
      assert.match(config, /"mmds-config":\{"version":"V2"/);
      assert.match(JSON.stringify(await vmm.get("/balloon")), /"amount_mib":16/);
    }
    assert.equal(await run(one.uds, "cat /tmp/mark; echo one >/tmp/mark"), "before");
    assert.equal(await run(two.uds, "cat /tmp/mark"), "before");
    // The first goes on at the time of the snapshot; the second as if it had run since, though it was resumed later.
    const later = Number((await run(two.uds, "cat /proc/uptime")).split(" ")[0]);
    const earlier = Number((await run(one.uds, "cat /proc/uptime")).split(" ")[0]);
    assert.ok(later > earlier, `${later} s and ${earlier} s after the boot`);
    assert.equal(await run(two.uds, "head -c 7 /dev/vdb"), "on-disk");
    const fetched = await run(
      two.uds,
      "printf 'PUT /latest/api/token HTTP/1.0\\r\\nX-metadata-token-ttl-seconds: 9\\r\\n\\r\\n' | nc -w 5 169.254.169.254 80 | head -1",
    );
    assert.match(fetched, /^HTTP\/1\.0 200/);
    assert.match(await echo(join(directory, "v.sock")), /ping$/, "the original is not disturbed");
  } finally {
    await one.vmm.stop();
    await two.vmm.stop();
  }
});

test("snapshot/load: what is wrong is refused with 400, and then the process ends", async () => {
  const broken = join(directory, "broken");
  const bytes = readFileSync(state);
  bytes[bytes.length - 100] = (bytes[bytes.length - 100] ?? 0) ^ 0xff;
  writeFileSync(broken, bytes);
  writeFileSync(join(directory, "short"), bytes.subarray(0, 100));
  const file = (path: string) => ({ mem_backend: { backend_type: "File", backend_path: path } });
  const cases: readonly (readonly [object, RegExp])[] = [
    [{ snapshot_path: "/nonexistent", ...file(memory) }, /No such file/],
    [{ snapshot_path: broken, ...file(memory) }, /checksum|CRC|deserial/i],
    [{ snapshot_path: join(directory, "short"), ...file(memory) }, /./],
    [{ snapshot_path: state, ...file("/nonexistent") }, /No such file/],
    [{ snapshot_path: state, ...file(join(directory, "disk.img")) }, /./],
  ];
  for (const [body, says] of cases) {
    await using vmm = await Vmm.start();
    const { status, text } = await vmm.send("PUT", "/snapshot/load", JSON.stringify(body));
    assert.equal(status, 400, text);
    assert.match(text, says);
    assert.notEqual((await vmm.end()).exitCode, 0);
  }
});
