// A tap device, attached to when it is named: its descriptor is QEMU's later. Node opens /dev/net/tun; the system call that makes
// a tap of it is made by tinderbox-native on the same open file.
import { spawnSync } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { errnoText, systemReason } from "../fault.ts";

const native =
  process.env["TINDERBOX_NATIVE"] ?? join(import.meta.dirname, "../../../../bin/tinderbox-native");
const maxName = 15;

/** An attached tap; as long as the descriptor is open nobody else can attach to it. */
export type Tap = { readonly fd: number; readonly name: string };

/** Attaches to the tap `name` of this network namespace, which is made if it is not there and this process may. @throws {Error} */
export function attachTap(name: string): Tap {
  if (Buffer.byteLength(name) > maxName)
    throw new Error(`Invalid interface name ${JSON.stringify(name.slice(0, 40))}: at most ${maxName} bytes.`);
  let fd: number;
  try {
    fd = openSync("/dev/net/tun", "r+");
  } catch (cause) {
    throw new Error(`/dev/net/tun cannot be opened: ${systemReason(cause)}`, { cause });
  }
  try {
    const { stdout, stderr, status } = spawnSync(native, ["tap-attach", name.replace(/\0.*$/s, "")], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe", fd],
      timeout: 5_000,
    });
    if (status === 0) return { fd, name: stdout.replace(/\n$/, "") };
    const errno = /^errno (\d+)$/m.exec(stderr)?.[1];
    throw new Error(
      `${errno === undefined ? stderr.trim() : errnoText(Number(errno))}. Invalid TUN/TAP backend: ${name}`,
    );
  } catch (thrown) {
    closeSync(fd);
    throw thrown;
  }
}

export function detachTap({ fd }: Tap): void {
  closeSync(fd);
}
