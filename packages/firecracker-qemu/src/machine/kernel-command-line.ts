// The kernel's command line: the client's words, and what the VMM adds to them. Behind ` -- ` are the words for init.
import { Fault } from "../fault.ts";
import type { Drive } from "../schema/bodies.ts";

/** Firecracker's own defaults, used when `boot_args` is not given. */
const defaultBootArgs =
  "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";
/** Bytes, the closing NUL included. */
const maxBytes = 2048;
const separator = " -- ";

/** The part for the kernel and the part for init. A separator between double quotes is none. */
function split(source: string): readonly [kernel: string, init: string] {
  for (let at = source.indexOf(separator); at >= 0; at = source.indexOf(separator, at + separator.length)) {
    const quotes = source.slice(0, at).split('"').length - 1;
    if (quotes % 2 === 0) return [source.slice(0, at).trim(), source.slice(at + separator.length).trim()];
  }
  return [source.trim(), ""];
}

const join = (kernel: string, init: string): string => (init === "" ? kernel : kernel + separator + init);

/** @throws {Fault} when `bootArgs` is longer than a kernel reads */
export function checkBootArgs(bootArgs: string): void {
  const bytes = Buffer.byteLength(join(...split(bootArgs))) + 1;
  if (bytes > maxBytes) {
    throw new Fault(
      `Boot source error: The kernel command line is invalid: the capacity is ${maxBytes - 1} bytes, \`boot_args\` has ${bytes - 1}.`,
    );
  }
}

/** The whole line. @throws {Fault} when there is no room for what is added, or a NUL would end it early */
export function kernelCommandLine(bootArgs: string | undefined, root: Drive | undefined): string {
  const [kernel, init] = split(bootArgs ?? defaultBootArgs);
  const parts = [kernel, "pci=off"];
  if (root !== undefined) {
    const device = root.partuuid === undefined ? "/dev/vda" : `PARTUUID=${root.partuuid}`;
    parts.push(`root=${device}`, root.is_read_only === true ? "ro" : "rw");
  }
  const line = join(parts.filter((part) => part !== "").join(" "), init);
  if (Buffer.byteLength(line) + 1 > maxBytes || line.includes("\0")) {
    throw new Fault(
      `Start microvm error: Invalid kernel command line: with what the VMM adds it has ${Buffer.byteLength(line)} bytes; ${maxBytes - 1} fit, and no NUL.`,
    );
  }
  return line;
}
