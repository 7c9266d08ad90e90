// KVM where a stock kernel really runs on it, else emulation. That /dev/kvm can be opened proves nothing (nested and
// emulated KVM may not run a stock kernel), so the kernel is booted once, alone: one that lives panics for want of a root
// and resets the machine. The outcome is remembered for this kernel on this processor.
import { createHash } from "node:crypto";
import { accessSync, constants, statSync } from "node:fs";
import { cpus } from "node:os";
import type { Accelerator } from "./command-line.ts";
import { readMemory, writeMemory } from "./memory.ts";
import { startQemu } from "./qemu-process.ts";

/** ms; a kernel without devices panics within one second under KVM, within two when nested. */
const probeMs = 6_000;

async function kernelRuns(kernel: string): Promise<boolean> {
  const reset = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => reset.resolve(false), probeMs);
  try {
    const qemu = await startQemu(
      [
        ...["-M", "microvm,acpi=on,pcie=off,ioapic2=off,auto-kernel-cmdline=off", "-accel", "kvm"],
        ...["-cpu", "max", "-m", "256M", "-nodefaults", "-no-user-config", "-display", "none"],
        ...["-action", "reboot=shutdown", "-chardev", "socket,id=control,fd=3", "-mon"],
        ...["chardev=control,mode=control", "-S", "-kernel", kernel, "-append", "panic=-1 reboot=k quiet"],
      ],
      ({ name, data }) => {
        if (name === "SHUTDOWN") reset.resolve(data["reason"] === "guest-reset");
        if (name === "STOP") reset.resolve(false);
      },
      { stdio: "ignore" },
    );
    try {
      void qemu.ended.then(() => reset.resolve(false));
      await qemu.qmp.execute("cont");
      return await reset.promise;
    } finally {
      await qemu.kill();
    }
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
  }
}

/** The accelerator for `kernel`; TINDERBOX_QEMU_ACCEL (`kvm` or `tcg`) decides without a try. */
export async function chooseAccelerator(kernel: string): Promise<Accelerator> {
  const wanted = process.env["TINDERBOX_QEMU_ACCEL"];
  if (wanted === "kvm" || wanted === "tcg") return wanted;
  if (wanted !== undefined && wanted !== "")
    throw new Error(`TINDERBOX_QEMU_ACCEL is ${JSON.stringify(wanted)}; it can be kvm or tcg`);
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
  } catch {
    return "tcg";
  }
  const { size, mtimeMs, ino } = statSync(kernel);
  const facts = [kernel, size, mtimeMs, ino, cpus()[0]?.model ?? ""];
  const key = `kvm ${createHash("sha256").update(JSON.stringify(facts)).digest("hex").slice(0, 32)}`;
  const known = readMemory()[key];
  if (typeof known === "boolean") return known ? "kvm" : "tcg";
  const ran = await kernelRuns(kernel);
  writeMemory(key, ran);
  return ran ? "kvm" : "tcg";
}
