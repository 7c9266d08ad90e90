// Run from the empty project of sdk-package.test.ts, by Node 22 and by ours: boots a microVM with the packed SDK.
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { launchMachine, listenVsock } from "@tinderbox/firecracker";

const [binary, kernel, initrd] = process.argv.slice(2);
const directory = mkdtempSync(join(tmpdir(), "sdk-packed-"));
const vsock = join(directory, "v.sock");
const signal = AbortSignal.timeout(60_000);
const machine = await launchMachine({ binary, apiSocket: join(directory, "api.sock"), id: "packed", signal });
try {
  const listener = await listenVsock(vsock, 1024);
  await machine.configure({
    "machine-config": { vcpu_count: 1, mem_size_mib: 256 },
    "boot-source": {
      kernel_image_path: kernel,
      initrd_path: initrd,
      boot_args: "console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd",
    },
    drives: [],
    vsock: { guest_cid: 3, uds_path: vsock },
  });
  const running = await machine.start({ signal });
  const guest = await running.whileAlive(listener.accept(signal));
  guest.destroy();
  await listener.close();
  console.log(`booted by Node ${process.versions.node}`);
} finally {
  await machine.kill();
}
const left = readdirSync(directory);
rmSync(directory, { recursive: true });
if (left.length > 0) throw new Error(`left: ${left.join(" ")}`);
