import assert from "node:assert/strict";
import { test } from "node:test";
import { messagePrefix, parseTimeout, percentEncode } from "./grpc-wire.ts";

test("percentEncode: printable ASCII stays, everything else and the percent sign do not", () => {
  assert.equal(percentEncode("pod: no such ~ !"), "pod: no such ~ !");
  assert.equal(percentEncode("100%\nödd\x7f"), "100%25%0A%C3%B6dd%7F");
});

test("parseTimeout: ms of every unit, nothing of anything else", () => {
  const given = ["2H", "3M", "15S", "99999999m", "5000u", "2000000n"].map(parseTimeout);
  assert.deepEqual(given, [7_200_000, 180_000, 15_000, 99_999_999, 5, 2]);
  for (const bad of ["", "S", "5", "5s", "-5S", "1.5S", "999999999m", "5S ", "5SS"])
    assert.equal(parseTimeout(bad), undefined, bad);
});

test("messagePrefix: not compressed, and the length", () => {
  assert.deepEqual([...messagePrefix(0x01020304)], [0, 1, 2, 3, 4]);
});
