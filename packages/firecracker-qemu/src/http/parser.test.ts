import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { HttpError, type Request, RequestParser } from "./parser.ts";

/** As the server reads: no more at a time than there is room for. */
function feed(bytes: Buffer, cuts: readonly number[]): Request[] {
  const parser = new RequestParser(1024);
  const out: Request[] = [];
  const sizes = cuts.values();
  for (let at = 0; at < bytes.length; ) {
    const size = Math.min(Math.max(1, sizes.next().value ?? Number.POSITIVE_INFINITY), parser.room);
    out.push(...parser.read(bytes.subarray(at, at + size)));
    at += size;
  }
  return out;
}

test("RequestParser: requests in any pieces are the same requests", () => {
  const one = fc.record({
    method: fc.constantFrom("GET" as const, "PUT" as const, "PATCH" as const, "DELETE" as const),
    path: fc.stringMatching(/^\/[a-z_/]{0,40}$/),
    body: fc.option(fc.stringMatching(/^[ -~]{1,200}$/), { nil: undefined }),
  });
  fc.assert(
    fc.property(
      fc.array(one, { maxLength: 5 }),
      fc.array(fc.integer({ min: 0, max: 50 })),
      (requests, cuts) => {
        const bytes = requests
          .map(({ method, path, body }) => {
            const length = body === undefined ? "" : `Content-Length: ${body.length}\r\n`;
            return `${method} ${path} HTTP/1.1\r\nHost: x\r\n${length}\r\n${body ?? ""}`;
          })
          .join("");
        assert.deepEqual(
          feed(Buffer.from(bytes), cuts),
          requests.map(({ method, path, body }) => ({
            method,
            path,
            body: body === undefined ? undefined : Buffer.from(body),
          })),
        );
      },
    ),
  );
});

test("RequestParser: arbitrary bytes are refused by an HttpError or wait for more", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 4096 }), (bytes) => {
      try {
        feed(Buffer.from(bytes), [100, 100]);
      } catch (thrown) {
        assert.ok(thrown instanceof HttpError, String(thrown));
      }
    }),
  );
});

test("RequestParser: after an error the next bytes are read in the state it was found in", () => {
  const parser = new RequestParser(100);
  const read = (text: string): readonly Request[] => parser.read(Buffer.from(text));
  const get = "GET /version HTTP/1.1\r\n\r\n";
  assert.throws(() => read(`${get}POST / HTTP/1.1\r\n\r\n${get}`), /Method/);
  assert.equal(read(get).length, 1);
  assert.throws(() => read("PUT / HTTP/1.1\r\nContent-Length: 101\r\n\r\n"), /limit of 100/);
  // Its headers are still being read, and this is none.
  assert.throws(() => read(get), /no colon/);
});

test("RequestParser: a line and its end have 1024 bytes at most", () => {
  const line = (bytes: number): string =>
    `GET /${"x".repeat(bytes - "GET / HTTP/1.1\r\n".length)} HTTP/1.1\r\n`;
  assert.equal(feed(Buffer.from(`${line(1024)}\r\n`), []).length, 1);
  assert.throws(() => feed(Buffer.from(`${line(1025)}\r\n`), []), /1024/);
  assert.throws(() => feed(Buffer.from(`GET / HTTP/1.1\r\nA: ${"x".repeat(1100)}\r\n\r\n`), []), /1024/);
});
