// The program under test, and the guest it boots: any that has Firecracker's command line.
//   FIRECRACKER_BIN      default bin/firecracker-qemu
//   FIRECRACKER_ARGS     more arguments for every start, by spaces, e.g. --no-seccomp
//   FIRECRACKER_KERNEL, FIRECRACKER_INITRD   default: what `make build` has made in .cache/guest; the initrd's modules are loaded if they fit the kernel
//   FIRECRACKER_VCPUS    how many processors the guest's kernel can use, default 2
import { existsSync } from "node:fs";
import { basename, join } from "node:path";

const root = join(import.meta.dirname, "../../..");
const settings = process.env;

/** The program's path. */
export const program = settings["FIRECRACKER_BIN"] ?? join(root, "bin/firecracker-qemu");
/** Arguments of every start. */
export const programArgs = (settings["FIRECRACKER_ARGS"] ?? "").split(" ").filter((one) => one !== "");
export const kernel = settings["FIRECRACKER_KERNEL"] ?? join(root, ".cache/guest/vmlinux");
export const initrd = settings["FIRECRACKER_INITRD"] ?? join(root, ".cache/guest/initramfs.img");
export const guestVcpus = Number(settings["FIRECRACKER_VCPUS"] ?? 2);

/** Programs that cannot do all that Firecracker can. */
export type Limited = "firecracker-qemu";

/** Whether the program under test is `name`. */
export function isProgram(name: Limited): boolean {
  return basename(program) === name;
}

for (const path of [program, kernel, initrd])
  if (!existsSync(path))
    throw new Error(`${path} is not there; \`make build\` makes what is missing by default`);
