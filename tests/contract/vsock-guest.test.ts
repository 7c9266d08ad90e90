// Vsock with a real guest: both directions, refusals, and what pause and resume do to it: nothing.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Guest } from "./harness/guest.ts";
import { addProbe, installProbe } from "./harness/guest-probe.ts";

let guest: Guest;
let uds = "";

before(async () => {
  guest = await Guest.prepare();
  uds = join(guest.vmm.directory, "v.sock");
  await guest.vmm.put("/machine-config", { vcpu_count: 1, mem_size_mib: 256 });
  await addProbe(guest);
  await guest.vmm.put("/vsock", { guest_cid: 3, uds_path: uds });
  assert.ok(existsSync(uds), "the socket is bound by PUT");
  await guest.start();
  await installProbe(guest);
});
after(() => guest?.vmm.stop());

/** Everything until the other side's end. */
async function readAll(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Reads until `bytes` have come. */
function readBytes(socket: Socket, bytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let all = Buffer.alloc(0);
    const onData = (chunk: Buffer): void => {
      all = Buffer.concat([all, chunk]);
      if (all.length < bytes) return;
      socket.off("data", onData);
      resolve(all);
    };
    socket.on("data", onData);
    socket.once("close", () => reject(new Error(`closed after ${all.length} of ${bytes} bytes`)));
  });
}

test("vsock: the host connects to a guest's port by CONNECT, and to one where nobody listens by an end", async () => {
  guest.type("guest-probe echo 700 &");
  await guest.vmm.said(/listening/);
  const socket = connect(uds);
  socket.write("CONNECT 700\n");
  assert.match((await readBytes(socket, 5)).toString(), /^OK \d+\n$/);
  const payload = Buffer.alloc(1 << 20, "0123456789abcdef");
  socket.write(payload);
  assert.deepEqual(await readBytes(socket, payload.length), payload);
  socket.destroy();
  const nobody = connect(uds);
  nobody.write("CONNECT 701\n");
  assert.equal((await readAll(nobody)).length, 0);
});

test("vsock: the guest connects to the host's <uds_path>_PORT; where nobody listens it is refused", async () => {
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer((socket) => accepted.resolve(socket)).listen(`${uds}_800`);
  const counting = guest.type("guest-probe count 800 100000");
  const all = await readAll(await accepted.promise);
  assert.equal((await guest.result(counting)).output, "connected\nsent 100000");
  assert.equal(all.length, 800_000);
  assert.equal(all.readBigUInt64LE(all.length - 8), 99_999n);
  server.close();
  const refused = await guest.result(guest.type("guest-probe dial 801"));
  assert.match(refused.output, /connect: Connection reset/);
});

test("vsock: 50 times paused and resumed while the guest sends and the host sends: nothing is lost or doubled", async () => {
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer((socket) => accepted.resolve(socket)).listen(`${uds}_900`);
  const numbers = 4_000_000;
  const counting = guest.type(`guest-probe count 900 ${numbers}`);
  const incoming = await accepted.promise;
  let next = 0n;
  let rest = Buffer.alloc(0);
  let isWrong = false;
  incoming.on("data", (chunk: Buffer) => {
    const bytes = Buffer.concat([rest, chunk]);
    const whole = bytes.length - (bytes.length % 8);
    for (let at = 0; at < whole; at += 8) isWrong ||= bytes.readBigUInt64LE(at) !== next++;
    rest = bytes.subarray(whole);
  });
  const ended = new Promise<void>((resolve) => incoming.once("end", resolve));
  const echo = connect(uds);
  echo.write("CONNECT 700\n");
  await readBytes(echo, 5);
  const payload = Buffer.alloc(8 << 20, "the quick brown fox ");
  const back = readBytes(echo, payload.length);
  echo.write(payload);
  let cycles = 0;
  for (; cycles < 50; cycles++) {
    await guest.vmm.put("/vm", { state: "Paused" }, "PATCH");
    await guest.vmm.put("/vm", { state: "Resumed" }, "PATCH");
    await new Promise((resolve) => setImmediate(resolve));
  }
  const inFlight = next < BigInt(numbers);
  assert.deepEqual(await back, payload);
  await ended;
  assert.equal((await guest.result(counting)).status, 0);
  assert.equal(isWrong, false);
  assert.equal(next, BigInt(numbers));
  assert.ok(inFlight, "the guest was still sending when the last cycle was over");
  echo.destroy();
  server.close();
});
