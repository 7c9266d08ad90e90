// A running machine: what was configured is there in the guest, what may be asked of it now and what not.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { guestVcpus } from "./harness/binary.ts";
import { bootArgs, Guest } from "./harness/guest.ts";

let guest: Guest;

before(async () => {
  guest = await Guest.prepare();
  await guest.vmm.put("/machine-config", { vcpu_count: guestVcpus, mem_size_mib: 256 });
  await guest.start();
});
after(() => guest?.vmm.stop());

test("machine-config and boot-source: processors, memory and command line are the guest's", async () => {
  assert.equal(await guest.run("nproc"), String(guestVcpus));
  const kib = Number(/MemTotal:\s+(\d+)/.exec(await guest.run("cat /proc/meminfo"))?.[1]);
  assert.ok(kib > 180 * 1024 && kib < 256 * 1024, `${kib} KiB`);
  assert.match(await guest.run("cat /proc/cmdline"), new RegExp(`^${bootArgs} .*pci=off`));
});
