// Whatever comes, the server goes on serving the others: seeded, a fixed number of rounds.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import fc from "fast-check";
import { Connection, request } from "./harness/connection.ts";
import { Vmm } from "./harness/vmm.ts";

const seed = Number(process.env["FUZZ_SEED"] ?? 20_261_124);
const rounds = Number(process.env["FUZZ_ROUNDS"] ?? 150);
let vmm: Vmm;
before(async () => {
  vmm = await Vmm.start();
});
after(() => vmm?.stop());

const paths = [
  "/",
  "/version",
  "/vm/config",
  "/machine-config",
  "/drives/a",
  "/mmds",
  "/mmds/config",
  "/balloon",
];
const method = fc.constantFrom("GET", "PUT", "PATCH", "DELETE", "POST", "get", "");
const path = fc.oneof(fc.constantFrom(...paths), fc.webUrl(), fc.string({ maxLength: 2000 }));
const version = fc.constantFrom("HTTP/1.1", "HTTP/1.0", "HTTP/2", "http/1.1", "");
const header = fc.oneof(
  fc.tuple(
    fc.constantFrom("Content-Length", "Expect", "Transfer-Encoding", "Accept-Encoding", "Connection", "X"),
    fc.oneof(fc.constantFrom("0", "2", "51201", "100-continue", "chunked", "identity;q=0"), fc.string()),
  ),
  fc.tuple(fc.string({ maxLength: 1100 }), fc.string()),
);
const message = fc
  .record({
    method,
    path,
    version,
    headers: fc.array(header, { maxLength: 5 }),
    end: fc.constantFrom("\r\n", "\r\n\r\n", "\n\n", ""),
    body: fc.oneof(fc.json(), fc.string({ maxLength: 3000 })),
  })
  .map((one) => {
    const head = one.headers.map(([name, value]) => `${name}: ${value}\r\n`).join("");
    return Buffer.from(`${one.method} ${one.path} ${one.version}\r\n${head}${one.end}${one.body}`);
  });
const bytes = fc.oneof(
  message,
  fc.uint8Array({ maxLength: 5000 }).map((raw) => Buffer.from(raw)),
);

/** A second client, which sends nothing strange, is served as ever. */
async function servesOthers(): Promise<void> {
  const answer = await vmm.send("GET", "/version");
  assert.equal(answer.status, 200);
  assert.match(answer.text, /firecracker_version/);
}

test("http: malformed requests, cut off anywhere", async () => {
  await fc.assert(
    fc.asyncProperty(bytes, fc.nat(), async (raw, cut) => {
      const connection = await Connection.open(vmm.socket);
      const at = raw.length === 0 ? 0 : cut % raw.length;
      connection.write(raw.subarray(0, at));
      connection.write(raw.subarray(at));
      connection.close();
      await servesOthers();
    }),
    { seed, numRuns: rounds },
  );
});

test("http: a good request behind a refused body is still answered", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom("PUT", "PATCH"),
      fc.constantFrom(...paths),
      fc.string(),
      async (verb, where, body) => {
        const connection = await Connection.open(vmm.socket);
        connection.write(Buffer.concat([request(verb, where, body), request("GET", "/version")]));
        const first = await connection.answer();
        const second = await connection.answer();
        assert.ok(first !== undefined && [204, 400].includes(first.status), first?.text);
        assert.equal(second?.status, 200);
        connection.close();
      },
    ),
    { seed, numRuns: rounds },
  );
});

test("http: huge bodies, slow clients and half requests take nobody's turn", async () => {
  const stalled = await Promise.all(Array.from({ length: 6 }, () => Connection.open(vmm.socket)));
  const parts = [
    "G",
    "GET /version HTTP/1.1\r\nX: ",
    "PUT /mmds HTTP/1.1\r\nContent-Length: 51200\r\n\r\n{",
    "PUT /mmds HTTP/1.1\r\nContent-Length: 4294967295\r\n\r\n",
    "PUT /mmds HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
  ];
  for (const [index, part] of parts.entries()) stalled[index]?.write(part);
  stalled[5]?.write(Buffer.alloc(8 << 20, "x"));
  for (let round = 0; round < 20; round++) {
    await servesOthers();
    for (const connection of stalled.slice(0, 3)) connection.write("x");
  }
  for (const connection of stalled) connection.close();
  await servesOthers();
});

test("http: two clients at once see each other's changes whole", async () => {
  const [one, two] = await Promise.all([Connection.open(vmm.socket), Connection.open(vmm.socket)]);
  const set = (value: number): Buffer =>
    request("PUT", "/machine-config", JSON.stringify({ vcpu_count: value, mem_size_mib: value * 100 }));
  const turns = 50;
  for (let turn = 0; turn < turns; turn++) {
    one.write(Buffer.concat([set(1), request("GET", "/machine-config")]));
    two.write(Buffer.concat([set(2), request("GET", "/machine-config")]));
  }
  for (let turn = 0; turn < turns; turn++)
    for (const client of [one, two]) {
      assert.equal((await client.answer())?.status, 204);
      const shown = JSON.parse((await client.answer())?.text ?? "{}");
      assert.equal(shown.mem_size_mib, shown.vcpu_count * 100);
    }
  one.close();
  two.close();
});

test("http: connections that come and go by the hundred", async () => {
  for (let turn = 0; turn < 100; turn++) {
    const connections = await Promise.all(Array.from({ length: 8 }, () => Connection.open(vmm.socket)));
    for (const connection of connections) {
      if (turn % 2 === 0) connection.write(request("GET", "/version"));
      connection.close();
    }
    if (turn % 10 === 0) await servesOthers();
  }
  await servesOthers();
});
