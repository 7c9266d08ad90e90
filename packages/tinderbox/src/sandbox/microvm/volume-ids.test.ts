import assert from "node:assert/strict";
import { test } from "node:test";
import type { IdMapping } from "../../network/contract.ts";
import { volumeIds } from "./volume-ids.ts";

const line = (inside: number, outside: number, length: number): IdMapping => ({ inside, outside, length });

/** What an id on the disk is in the guest, by the server's rule; -1: nobody's. */
function inGuest(id: number, pod: IdMapping | undefined, mount: readonly IdMapping[]): number {
  const lines = volumeIds(pod, mount);
  if (lines.length === 0) return id;
  const found = lines.filter(({ inside, length }) => id >= inside && id < inside + length);
  assert.ok(found.length <= 1, `${id} is in ${found.length} lines`);
  return found[0] ? found[0].outside + id - found[0].inside : -1;
}

test("volumeIds: without a user namespace and mappings ids are what they are", () => {
  assert.deepEqual(volumeIds(undefined, []), []);
  assert.deepEqual(volumeIds(undefined, [line(0, 1000, 1)]), [line(0, 1000, 1)]);
});

test("volumeIds: the pod's ids on the host are its own in the guest, and every other is another's", () => {
  const last = 0xffff_fffe;
  // Apart, overlapping as critest has it, at the beginning, to the end.
  for (const pod of [
    line(0, 300_000, 65_536),
    line(0, 1000, 100_000),
    line(0, 0, 10),
    line(0, last - 9, 10),
  ]) {
    const { outside, length } = pod;
    assert.equal(inGuest(outside, pod, []), 0);
    assert.equal(inGuest(outside + length - 1, pod, []), length - 1);
    const others = [0, 1, outside - 1, length - 1, length, outside + length, last].filter(
      (id) => id >= 0 && id <= last && (id < outside || id >= outside + length),
    );
    const seen = others.map((id) => inGuest(id, pod, []));
    assert.ok(
      seen.every((id) => id >= length && id <= last),
      `${seen}`,
    );
    assert.equal(new Set(seen).size, new Set(others).size);
  }
});

test("volumeIds: a mount's mappings count before the pod's", () => {
  const pod = line(0, 300_000, 65_536);
  assert.deepEqual(volumeIds(pod, [line(0, 300_000, 65_536)]), [line(0, 0, 65_536)]);
  const some = [line(5, 300_007, 1), line(100, 299_999, 2)];
  assert.equal(inGuest(5, pod, some), 7);
  assert.equal(inGuest(100, pod, some), 299_999 + 65_536);
  assert.equal(inGuest(101, pod, some), 0);
  for (const id of [0, 4, 6, 99, 102, 300_000]) assert.equal(inGuest(id, pod, some), -1);
});
