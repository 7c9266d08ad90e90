import assert from "node:assert/strict";
import { test } from "node:test";
import { machineSize, neededSize } from "./machine-size.ts";

const none = { cpuPeriod: 0, cpuQuota: 0, memoryLimitBytes: 0 };
const runtime = {
  type: "microvm",
  name: "f",
  vmm: "auto",
  jailer: "auto",
  kernel: "",
  initrd: "",
  bootArgs: "",
  vcpus: 1,
  memoryMib: 256,
} as const;

test("machineSize: the handler's figures, or what the pod's containers may use and the guest beside them", () => {
  assert.deepEqual(machineSize(runtime, none, none), { vcpus: 1, memoryMib: 256 });
  const small = { ...none, memoryLimitBytes: 64 << 20 };
  assert.deepEqual(machineSize(runtime, small, none), { vcpus: 1, memoryMib: 256 });
  const large = { cpuPeriod: 100_000, cpuQuota: 150_000, memoryLimitBytes: 300 << 20 };
  assert.equal(machineSize(runtime, large, none).memoryMib, 428);
  assert.deepEqual(neededSize(large, { ...none, memoryLimitBytes: 200 << 20 }), {
    vcpus: 2,
    memoryMib: 500,
  });
  assert.ok(machineSize(runtime, { ...large, memoryLimitBytes: 2 ** 50 }, none).memoryMib < 2 ** 30);
});
