/** Sandboxes that an older version of the daemon made, as its files describe them: they go on under this one. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { SandboxRecord } from "./contract.ts";
import { attachDevices } from "./microvm/block-device-drives.ts";
import { DriveSlots, driveId } from "./microvm/drive-slots.ts";
import { sharedMemoryPath } from "./sandbox-directory.ts";

function first(place: "host" | "microvm", directory: string): SandboxRecord {
  const spec = {
    id: "p",
    hostname: "p",
    cgroupPath: "tinderbox/p",
    network: { kind: "host" },
    resolvConf: "",
    sysctls: {},
    sharedPidNamespace: false,
    hostPid: false,
    hostIpc: false,
    vcpus: 1,
    memoryMib: 256,
    runtime: "crun",
  } as const;
  return { id: "p", place, handler: "h", directory, spec };
}

test("the first generation has no /dev/shm for a pod", () => {
  const record = first("host", "/run/p");
  assert.equal(sharedMemoryPath(record), undefined);
  assert.equal(sharedMemoryPath({ ...record, generation: 2 }), "/run/p/shm");
  assert.equal(sharedMemoryPath({ ...first("microvm", "/p"), generation: 2 }), "/dev/shm");
});

test("the first generation's drives are known, released, and get no block devices", async (context) => {
  const directory = mkdtempSync(join(tmpdir(), "generation-"));
  context.after(() => rmSync(directory, { recursive: true }));
  const journal = join(directory, "drives.json");
  writeFileSync(journal, JSON.stringify([{ index: 1, imageId: "sha256:a", containers: ["old"] }]));
  const done: string[] = [];
  const slots = await DriveSlots.load(
    directory,
    { readOnly: 8, writable: 4 },
    {
      setBacking: async (index, path) => void done.push(`${driveId(index)} ${path.slice(directory.length)}`),
      setDevice: async () => assert.fail("a device"),
      removeDevice: async () => {},
      releaseInGuest: async (index) => void done.push(`release ${index}`),
    },
  );
  assert.deepEqual(slots.containers, ["old"]);
  const image = { id: "sha256:a", blockPath: journal, fsType: "squashfs" };
  // Its image is in a drive already.
  const { index } = await slots.acquireImage("new", image as Parameters<DriveSlots["acquireImage"]>[1]);
  assert.deepEqual([index, done], [1, []]);
  const device = {
    field: "devices[0]",
    hostPath: "/dev/loop0",
    containerPath: "/dev/x",
    access: "rw",
  } as const;
  await assert.rejects(
    attachDevices(first("microvm", directory), slots, { id: "new", blockDevices: [device] }),
    { code: "UNSUPPORTED", message: /^devices\[0\]: the pod was made by a version/ },
  );
  await slots.release("new");
  await slots.release("old");
  assert.deepEqual(done, ["release 1", "image_1 /placeholder"]);
  assert.equal(readFileSync(journal, "utf8"), "[]");
});
