import assert from "node:assert/strict";
import { test } from "node:test";
import { SessionTokens } from "./session-tokens.ts";

test("SessionTokens: a token is good once and for a minute; a thousand may wait", () => {
  let now = 0;
  const tokens = new SessionTokens<number>(() => now);
  const first = tokens.issue(1);
  assert.ok(Buffer.from(first, "base64url").length >= 16);
  assert.equal(tokens.take(first), 1);
  assert.equal(tokens.take(first), undefined);
  const old = tokens.issue(2);
  now += 60_000;
  assert.equal(tokens.take(old), undefined);
  for (let n = 0; n < 1000; n++) tokens.issue(n);
  assert.throws(() => tokens.issue(0), { code: "LIMIT" });
  now += 60_000;
  assert.equal(tokens.take(tokens.issue(3)), 3);
});
