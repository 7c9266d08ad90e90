import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { HttpError, type Request, RequestParser } from "./parser.ts";

function feed(bytes: Buffer, cuts: readonly number[]): Request[] {
  const parser = new RequestParser(1024);
  const out: Request[] = [];
  let at = 0;
  for (const cut of [...cuts, bytes.length]) {
    const end = Math.min(bytes.length, at + cut);
    out.push(...parser.push(bytes.subarray(at, end)));
    at = end;
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
          requests.map((request) => ({ ...request })),
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
