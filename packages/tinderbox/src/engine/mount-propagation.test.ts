import assert from "node:assert/strict";
import { test } from "node:test";
import { peersOf } from "./mount-propagation.ts";

const mountinfo = `21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:25 / /mnt rw - tmpfs tmpfs rw
31 30 0:26 / /mnt/a\\040b rw shared:5 master:1 - tmpfs tmpfs rw
32 21 0:27 / /srv rw master:1 - tmpfs tmpfs rw
33 21 0:28 / /srv rw - tmpfs tmpfs rw
`;

test("peersOf: the nearest mount above a path counts, the last one on its point", () => {
  const peers = (path: string): readonly boolean[] => {
    const { isShared, isSlave } = peersOf(path, mountinfo);
    return [isShared, isSlave];
  };
  assert.deepEqual(peers("/var/x"), [true, false]);
  assert.deepEqual(peers("/mnt"), [false, false]);
  assert.deepEqual(peers("/mntx"), [true, false]);
  assert.deepEqual(peers("/mnt/a b/c"), [true, true]);
  assert.deepEqual(peers("/srv/x"), [false, false]);
});
