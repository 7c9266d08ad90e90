/** The same VMM, guest and drives as a pod's, driven by the SDK alone: from spawn to the guest's call on vsock. */
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { launchMachine, listenVsock } from "../packages/firecracker/src/index.ts";
import { machineConfiguration } from "../packages/tinderbox/src/sandbox/microvm/machine-configuration.ts";
import { bin, guest } from "./places.ts";

/** Boots once and kills it; `booted` is called in between. The caller measures. */
export async function bareBoot(
  work: string,
  measure: (boot: () => Promise<void>) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(work, "bare-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  writeFileSync(join(directory, "placeholder"), Buffer.alloc(512));
  writeFileSync(join(directory, "scratch.ext4"), "");
  truncateSync(join(directory, "scratch.ext4"), 10_240 * 2 ** 20);
  const outputFd = openSync(join(directory, "console.log"), "a");
  stack.defer(() => closeSync(outputFd));
  const record = {
    directory,
    spec: { id: "bare", vcpus: 1, memoryMib: 256, network: { kind: "host" } },
  } as const;
  await measure(async () => {
    const machine = await launchMachine({
      binary: join(bin, "firecracker-qemu"),
      apiSocket: join(directory, "api.sock"),
      id: "bare",
      outputFd,
    });
    stack.defer(() => machine.kill());
    const listener = await listenVsock(join(directory, "vsock.sock"), 1024);
    stack.defer(() => listener[Symbol.asyncDispose]());
    await machine.configure(
      machineConfiguration(record, join(directory, "vsock.sock"), {
        kernel: join(guest, "vmlinux"),
        initrd: join(guest, "initramfs.img"),
        bootArgs: "",
      }),
    );
    await machine.start();
    const socket = await machine.whileAlive(listener.accept(AbortSignal.timeout(60_000)));
    stack.defer(() => void socket.destroy());
  });
}
