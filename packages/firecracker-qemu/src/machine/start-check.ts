// What InstanceStart refuses before QEMU is asked: a kernel or initrd that is none, and more devices than Firecracker has interrupts for.
import { fstatSync, readSync } from "node:fs";
import { Fault, systemReason } from "../fault.ts";
import type { BootSource } from "../schema/bodies.ts";
import type { VmConfig } from "./vm-config.ts";

/** virtio-mmio devices of an x86_64 Firecracker */
const maxDevices = 17;
const elfMagic = Buffer.from([0x7f, 0x45, 0x4c, 0x46]);
/** A bzImage has it at 0x202 */
const bzImageMagic = "HdrS";

const refuse = (why: string, cause?: unknown): Fault => new Fault(`Start microvm error: ${why}`, { cause });

/** The first bytes of a file, and its size. */
function look(path: string, fd: number): { readonly head: Buffer; readonly size: number } {
  try {
    const head = Buffer.alloc(0x206);
    return { head: head.subarray(0, readSync(fd, head, 0, head.length, 0)), size: fstatSync(fd).size };
  } catch (cause) {
    throw refuse(`${path}: ${systemReason(cause)}`, cause);
  }
}

/** @throws {Fault} */
export function checkStart(config: VmConfig, source: BootSource): void {
  const { kernel_image_path: kernel, initrd_path: initrd } = source;
  const { head } = look(kernel, config.files.get("kernel"));
  if (!head.subarray(0, 4).equals(elfMagic) && head.toString("latin1", 0x202, 0x206) !== bzImageMagic)
    throw refuse(
      `Cannot load kernel due to invalid memory configuration or invalid kernel image: ${kernel} is neither an ELF file (vmlinux) nor a bzImage.`,
    );
  if (initrd !== undefined) {
    const bytes = look(initrd, config.files.get("initrd")).size;
    if (bytes === 0 || bytes > config.machine.mem_size_mib * 1024 * 1024)
      throw refuse(
        `Cannot load initrd due to an invalid memory configuration: ${initrd} has ${bytes} bytes, the machine ${config.machine.mem_size_mib} MiB.`,
      );
  }
  if (config.deviceCount > maxDevices)
    throw refuse(
      `Could not attach device: the requested resource is not available: ${config.deviceCount} devices, ${maxDevices} have an interrupt.`,
    );
}
