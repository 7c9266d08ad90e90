// Below the JSON: what the server takes for a request, what it refuses, in which order it answers, and how many it lets in.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Connection, type HttpAnswer, request } from "./harness/connection.ts";
import { Vmm } from "./harness/vmm.ts";

let vmm: Vmm;
before(async () => {
  vmm = await Vmm.start();
});
after(() => vmm?.stop());

const get = "GET /version HTTP/1.1\r\n\r\n";
const entropy = (headers: string, body = "{}"): string =>
  `PUT /entropy HTTP/1.1\r\n${headers}\r\n\r\n${body}`;

/** What one connection is answered to these bytes, until there were `count` answers. */
async function talk(bytes: string | Buffer, count = 1): Promise<readonly HttpAnswer[]> {
  const connection = await Connection.open(vmm.socket);
  try {
    connection.write(bytes);
    const answers: HttpAnswer[] = [];
    while (answers.length < count) {
      const answer = await connection.answer();
      if (answer === undefined) break;
      answers.push(answer);
    }
    return answers;
  } finally {
    connection.close();
  }
}

const statuses = async (bytes: string | Buffer, count: number): Promise<readonly number[]> =>
  (await talk(bytes, count)).map(({ status }) => status);

async function refuses(bytes: string | Buffer, says: RegExp): Promise<void> {
  const [answer] = await talk(bytes);
  assert.equal(answer?.status, 400, String(bytes).slice(0, 200));
  assert.match(answer.text, /^\{ "error": "[\s\S]*" \}$/);
  assert.match(answer.text, says);
  // The string has a line break, so that no client takes it for JSON.
  assert.throws(() => JSON.parse(answer.text), answer.text);
}

test("http: an answer's head", async () => {
  const [ok, none, bad] = await talk(
    get + entropy("Content-Length: 2") + request("GET", "/nope").toString(),
    3,
  );
  assert.equal(ok?.line, "HTTP/1.1 200 ");
  assert.deepEqual(
    [...(ok?.headers.keys() ?? [])],
    ["Server", "Connection", "Content-Type", "Content-Length"],
  );
  assert.equal(none?.line, "HTTP/1.1 204 ");
  assert.deepEqual(Object.fromEntries(none?.headers ?? []), {
    Server: "Firecracker API",
    Connection: "keep-alive",
  });
  assert.equal(bad?.line, "HTTP/1.1 400 ");
  assert.equal(bad?.headers.get("Content-Type"), "application/json");
});

test("http: requests in one piece are answered in order, and in many pieces, too", async () => {
  assert.deepEqual(await statuses(get + entropy("Content-Length: 2") + get, 3), [200, 204, 200]);
  assert.deepEqual(await statuses(get.repeat(200), 200), Array(200).fill(200));
  const connection = await Connection.open(vmm.socket);
  for (const byte of entropy("Content-Length: 2")) connection.write(byte);
  assert.equal((await connection.answer())?.status, 204);
  connection.close();
});

test("http: a connection stays, whatever the client says of it", async () => {
  const connection = await Connection.open(vmm.socket);
  for (const header of ["Connection: close", "Connection: Upgrade\r\nUpgrade: websocket", "X: y"]) {
    connection.write(`GET /version HTTP/1.1\r\n${header}\r\n\r\n`);
    assert.equal((await connection.answer())?.status, 200);
  }
  connection.write("GET /version HTTP/1.0\r\n\r\n");
  assert.equal((await connection.answer())?.line, "HTTP/1.1 200 ");
  connection.close();
});

test("http: request lines", async () => {
  await refuses("POST / HTTP/1.1\r\n\r\n", /Method.*unsupported/i);
  await refuses("get /version HTTP/1.1\r\n\r\n", /Method.*unsupported/i);
  await refuses("GET /version HTTP/2\r\n\r\n", /Version.*unsupported/i);
  await refuses("GET /a b HTTP/1.1\r\n\r\n", /Version.*unsupported/i);
  await refuses("GET /version HTTP/1.1 \r\n\r\n", /Version.*unsupported/i);
  await refuses("GET  /version HTTP/1.1\r\n\r\n", /URI.*empty/i);
  await refuses(Buffer.from("GET /\xff HTTP/1.1\r\n\r\n", "latin1"), /URI.*UTF-8/i);
  await refuses("GET /version\r\n\r\n", /[Ii]nvalid request/);
  await refuses("\r\n\r\n", /[Ii]nvalid request/);
  assert.deepEqual(await statuses("GET http://any.where/version HTTP/1.1\r\n\r\n", 1), [200]);
  // What is no absolute path is the root.
  assert.match((await talk("GET version HTTP/1.1\r\n\r\n"))[0]?.text ?? "", /Not started/);
});

test("http: 1024 bytes a line, its end included", async () => {
  const line = (bytes: number): string => `GET /${"x".repeat(bytes - 16)} HTTP/1.1\r\n\r\n`;
  assert.match((await talk(line(1024)))[0]?.text ?? "", /method and\/or path: GET xxx/);
  await refuses(line(1025), /[Ii]nvalid request/);
  const header = (bytes: number): string => `GET /version HTTP/1.1\r\nX: ${"x".repeat(bytes - 5)}\r\n\r\n`;
  assert.deepEqual(await statuses(header(1024), 1), [200]);
  await refuses(header(1025), /[Ii]nvalid header/);
  assert.deepEqual(await statuses(`GET /version HTTP/1.1\r\n${"X: y\r\n".repeat(500)}\r\n`, 1), [200]);
});

test("http: headers", async () => {
  await refuses("GET /version HTTP/1.1\r\nno colon\r\n\r\n", /header.*no colon/i);
  await refuses(Buffer.from("GET /version HTTP/1.1\r\nX: \xff\r\n\r\n", "latin1"), /header/i);
  assert.deepEqual(await statuses("GET /version HTTP/1.1\r\n: no name\r\n\r\n", 1), [200]);
  await refuses("GET /version HTTP/1.1\r\nAccept-Encoding: identity;q=0\r\n\r\n", /Accept-Encoding/);
  await refuses("GET /version HTTP/1.1\r\nAccept-Encoding: gzip, *;q=0\r\n\r\n", /Accept-Encoding/);
  assert.deepEqual(
    await statuses("GET /version HTTP/1.1\r\nAccept-Encoding: *;q=0, identity\r\n\r\n", 1),
    [200],
  );
  const anyType =
    "Content-Type: text/html\r\nAccept: image/png\r\nTransfer-Encoding: gzip\r\nContent-Length: 2";
  assert.deepEqual(await statuses(entropy(anyType), 1), [204]);
});

test("http: bodies have the length that is said, and only that", async () => {
  for (const length of [
    "content-length:2",
    "Content-Length :  2 ",
    "CONTENT-LENGTH: 002",
    "Content-Length: +2",
  ])
    assert.deepEqual(await statuses(entropy(length), 1), [204], length);
  assert.deepEqual(await statuses(entropy("Content-Length: 9\r\nContent-Length: 2"), 1), [204]);
  for (const length of ["x", "-1", "2,2", "", "4294967296", "1e1"])
    await refuses(entropy(`Content-Length: ${length}`), /Content-Length/i);
  assert.match((await talk(entropy("X: y", "")))[0]?.text ?? "", /Empty PUT/);
  // It is not decoded: a length has to be there.
  assert.match((await talk(entropy("Transfer-Encoding: chunked", "")))[0]?.text ?? "", /Empty PUT/);
  assert.deepEqual(await statuses(entropy("Transfer-Encoding: chunked\r\nContent-Length: 2"), 1), [204]);
  const limit = 51200;
  assert.deepEqual(
    await statuses(entropy(`Content-Length: ${limit}`, `{}${" ".repeat(limit - 2)}`), 1),
    [204],
  );
  await refuses(entropy(`Content-Length: ${limit + 1}`, ""), new RegExp(`${limit + 1}.*${limit}`));
});

test("http: a client may ask before it sends a body", async () => {
  for (const version of ["1.1", "1.0"]) {
    const connection = await Connection.open(vmm.socket);
    connection.write(`PUT /entropy HTTP/${version}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n`);
    assert.equal((await connection.answer())?.line, `HTTP/${version} 100 `);
    connection.write("{}");
    assert.equal((await connection.answer())?.status, 204);
    connection.close();
  }
  assert.deepEqual(await statuses("GET /version HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", 1), [200]);
});

test("http: after what is no request the connection goes on, without the whole requests before it", async () => {
  const connection = await Connection.open(vmm.socket);
  connection.write(`${get}POST / HTTP/1.1\r\n\r\n${get}`);
  assert.equal((await connection.answer())?.status, 400);
  connection.write(get);
  assert.equal((await connection.answer())?.status, 200);
  // The headers of this one are still to come.
  connection.write("PUT /entropy HTTP/1.1\r\nno colon\r\n");
  assert.equal((await connection.answer())?.status, 400);
  connection.write("Content-Length: 2\r\n\r\n{}");
  assert.equal((await connection.answer())?.status, 204);
  connection.close();
});

test("http: ten connections; the next one is told so, and closed", async () => {
  const many = await Promise.all(Array.from({ length: 9 }, () => Connection.open(vmm.socket)));
  for (const connection of many) {
    connection.write(get);
    assert.equal((await connection.answer())?.status, 200);
  }
  const next = await Connection.open(vmm.socket);
  const answer = await next.answer();
  assert.equal(answer?.line, "HTTP/1.1 503");
  assert.equal(answer.headers.get("Connection"), "close");
  assert.equal(typeof JSON.parse(answer.text).error, "string");
  assert.ok(await next.closes());
  // The first of them asks while it is at it.
  assert.equal((await vmm.send("GET", "/version")).status, 200);
  for (const connection of [...many, next]) connection.close();
  let status = 0;
  // Until the server has seen that they are gone.
  while (status !== 200) status = (await statuses(get, 1))[0] ?? 0;
});

test("http: a client that closes its sending side is taken for gone", async () => {
  const connection = await Connection.open(vmm.socket);
  connection.write(get);
  assert.equal((await connection.answer())?.status, 200);
  connection.write("GET /ver");
  connection.endSending();
  assert.ok(await connection.closes());
  connection.close();
  assert.equal((await vmm.send("GET", "/version")).status, 200);
});
