import assert from "node:assert/strict";
import { test } from "node:test";
import { moveClock } from "./saved-clock.ts";

function section(version: number): Buffer {
  const head = Buffer.concat([Buffer.from([4, 0, 0, 0, 7, 5]), Buffer.from("timer")]);
  const numbers = Buffer.alloc(8 + 24);
  numbers.writeUInt32BE(version, 4);
  numbers.writeBigInt64BE(1_000n, 8);
  numbers.writeBigInt64BE(77n, 16);
  numbers.writeBigInt64BE(2_000n, 24);
  return Buffer.concat([Buffer.from("\u0005timer is not it"), head, numbers, Buffer.from("more")]);
}

test("moveClock: the counter and the nanoseconds go forward together, nothing else changes", () => {
  const state = section(2);
  const moved = moveClock(state, 10, 2_500_000);
  const at = state.length - 4 - 24;
  assert.equal(moved.readBigInt64BE(at), 1_000n + 25_000_000n);
  assert.equal(moved.readBigInt64BE(at + 8), 77n);
  assert.equal(moved.readBigInt64BE(at + 16), 2_000n + 10_000_000n);
  assert.deepEqual(moved.subarray(0, at), state.subarray(0, at));
  assert.equal(moved.subarray(-4).toString(), "more");
});

test("moveClock: a state without such a section, or with a newer one, is refused", () => {
  assert.throws(() => moveClock(section(3), 1, 1), /no clock/);
  assert.throws(() => moveClock(Buffer.alloc(0), 1, 1), /no clock/);
  assert.throws(() => moveClock(section(2).subarray(0, 30), 1, 1), /no clock/);
});
