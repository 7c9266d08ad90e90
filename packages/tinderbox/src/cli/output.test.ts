import assert from "node:assert/strict";
import { test } from "node:test";
import { formatAge, formatBytes, formatTable } from "./output.ts";

test("formatTable: columns line up and the last has no padding", () => {
  assert.equal(formatTable(["A", "LONG"], [["wide cell", "x"]]), "A          LONG\nwide cell  x\n");
});

test("formatAge: the largest unit that fits, one or many", () => {
  const second = 1_000_000_000n;
  assert.equal(formatAge(0n, 0n), "now");
  assert.equal(formatAge(10n * second, 0n), "now");
  assert.equal(formatAge(0n, 1n * second), "1 second ago");
  assert.equal(formatAge(0n, 3599n * second), "59 minutes ago");
  assert.equal(formatAge(0n, 2n * 86_400n * second), "2 days ago");
});

test("formatBytes: binary units", () => {
  assert.equal(formatBytes(0n), "0 B");
  assert.equal(formatBytes(1536n), "1.5 KiB");
  assert.equal(formatBytes(5n << 30n), "5.0 GiB");
});
