// A network interface with a real guest and a tap: traffic, the metadata service, rate limits.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { Guest } from "./harness/guest.ts";

const tap = `fct${process.pid % 1_000_000}`;
const address = "169.254.170.2";
let guest: Guest;

const ip = (...args: readonly string[]): string => execFileSync("ip", args, { encoding: "utf8" });

before(async () => {
  ip("tuntap", "add", "dev", tap, "mode", "tap");
  ip("addr", "add", "10.200.0.1/30", "dev", tap);
  ip("link", "set", tap, "up");
  guest = await Guest.prepare();
  const { vmm } = guest;
  await vmm.put("/machine-config", { vcpu_count: 1, mem_size_mib: 256 });
  await vmm.put("/network-interfaces/eth0", {
    iface_id: "eth0",
    host_dev_name: tap,
    guest_mac: "06:00:0a:c8:00:02",
    mtu: 1400,
  });
  await vmm.put("/mmds/config", {
    version: "V2",
    network_interfaces: ["eth0"],
    ipv4_address: address,
  });
  await vmm.put("/mmds", { latest: { "meta-data": { "ami-id": "ami-1", count: 3, nested: { a: "b" } } } });
  await guest.start();
  await guest.run(
    `ip addr add 10.200.0.2/30 dev eth0; ip link set eth0 up; ip route add ${address} dev eth0; true`,
  );
});
after(async () => {
  await guest?.vmm.stop();
  ip("link", "del", tap);
});

test("network-interfaces: MAC and MTU are the guest's, and packets pass both ways", async () => {
  assert.match(await guest.run("cat /sys/class/net/eth0/address"), /^06:00:0a:c8:00:02$/);
  assert.equal(await guest.run("cat /sys/class/net/eth0/mtu"), "1400");
  assert.match(await guest.run("ping -c 3 -W 5 10.200.0.1"), / 0% packet loss/);
});

/** One request of the guest's, byte for byte. */
async function ask(request: string, to = address): Promise<string> {
  const text = request.replaceAll("\n", "\\r\\n");
  return (await guest.run(`printf '${text}\\r\\n' | nc -w 5 ${to} 80`)).replaceAll("\r", "");
}

test("mmds V2: a token is wanted and given, then the metadata is there as JSON and as a list", async () => {
  const path = "/latest/meta-data/";
  assert.match(
    await ask(`GET ${path} HTTP/1.0\nConnection: close\n`),
    /^HTTP\/1\.0 401 [\s\S]*No MMDS token/,
  );
  const bad = await ask(`GET ${path} HTTP/1.1\nConnection: close\nX-metadata-token: nonsense\n`);
  assert.match(bad, /^HTTP\/1\.1 401 [\s\S]*not valid/);
  const put = (headers: string): Promise<string> =>
    ask(`PUT /latest/api/token HTTP/1.1\nConnection: close\n${headers}`);
  assert.match(await put(""), / 400 [\s\S]*time to live value not found/);
  assert.match(await put("X-metadata-token-ttl-seconds: 21601\n"), / 400 [\s\S]*between 1 and 21600/);
  assert.match(
    await put("X-metadata-token-ttl-seconds: 60\nX-Forwarded-For: x\n"),
    / 400 [\s\S]*X-Forwarded-For/i,
  );
  const granted = await put("X-metadata-token-ttl-seconds: 60\n");
  assert.match(granted, / 200 [\s\S]*X-metadata-token-ttl-seconds: 60/i);
  const token = granted.split("\n").at(-1) ?? "";
  const get = (path: string, more = ""): Promise<string> =>
    ask(`GET ${path} HTTP/1.1\nConnection: close\nX-metadata-token: ${token}\n${more}`);
  assert.match(await get(path), /Content-Type: text\/plain[\s\S]*\n\nami-id\ncount\nnested\/$/);
  assert.match(
    await get(path, "Accept: application/json\n"),
    /\n\n\{"ami-id":"ami-1","count":3,"nested":\{"a":"b"\}\}$/,
  );
  assert.match(await get("/latest/meta-data/ami-id"), /\n\nami-1$/);
  assert.match(await get("/latest//meta-data/nested/a"), /\n\nb$/);
  assert.match(await get("/latest/meta-data/count"), / 501 [\s\S]*unsupported type/);
  assert.match(await get("/latest/none"), / 404 [\s\S]*Resource not found: \/latest\/none/);
  assert.match(await ask("DELETE / HTTP/1.1\nConnection: close\n"), / 405 [\s\S]*Allow: GET, PUT/);
  await guest.vmm.put("/mmds", { latest: { now: "other" } }, "PATCH");
  assert.match(await get("/latest/now"), /\n\nother$/);
});

test("mmds: only its address is taken from the network; the host's own server on port 80 is reached", async () => {
  const server = createServer((_request, response) => response.end("the host"));
  await new Promise<void>((resolve) => server.listen(80, "10.200.0.1", resolve));
  try {
    assert.match(await ask("GET / HTTP/1.0\n", "10.200.0.1"), /the host$/);
  } finally {
    server.close();
  }
});

test("network-interfaces: rate limiters hold traffic back, and PATCH changes and removes them", async () => {
  const { vmm } = guest;
  const ping = async (count: number): Promise<number> => {
    const output = await guest.run(`ping -q -c ${count} -i 0.01 -W 1 10.200.0.1; true`);
    return Number(/(\d+) packets received/.exec(output)?.[1] ?? Number.NaN);
  };
  assert.equal(await ping(20), 20);
  // Five packets, and no more for a long time.
  const five = { ops: { size: 5, refill_time: 3_600_000 } };
  await vmm.put("/network-interfaces/eth0", { iface_id: "eth0", tx_rate_limiter: five }, "PATCH");
  assert.ok((await ping(20)) <= 5);
  await vmm.put(
    "/network-interfaces/eth0",
    { iface_id: "eth0", tx_rate_limiter: { ops: { size: 0, refill_time: 0 } }, rx_rate_limiter: five },
    "PATCH",
  );
  assert.ok((await ping(20)) <= 5);
  await vmm.put(
    "/network-interfaces/eth0",
    { iface_id: "eth0", rx_rate_limiter: { ops: { size: 0, refill_time: 0 } } },
    "PATCH",
  );
  // What was held back comes first.
  await guest.run("ping -q -c 20 -i 0.01 -W 1 10.200.0.1; true");
  assert.equal(await ping(20), 20);
});
