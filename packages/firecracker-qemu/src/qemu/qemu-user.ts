// Whom QEMU runs as: if we are root, a user of its own that nobody else is, so that it has no rights to any path.
import { readFileSync, statSync } from "node:fs";

export type QemuUser = {
  readonly uid: number;
  readonly gid: number;
  /** Supplementary groups: the one that may use /dev/kvm */
  readonly groups: readonly number[];
};

/** Above what systems give to people and services; the pid behind it makes it one's own */
const firstUid = 2_000_000_000;
const nobody = 65_534;

function isMapped(id: number): boolean {
  return readFileSync("/proc/self/uid_map", "utf8")
    .trim()
    .split("\n")
    .some((line) => {
      const [inside = 0, , count = 0] = line.trim().split(/\s+/).map(Number);
      return id >= inside && id < inside + count;
    });
}

/** The user for this process's QEMU; undefined when we are not root: then it is ours. */
export function qemuUser(needsKvm: boolean): QemuUser | undefined {
  if (process.geteuid?.() !== 0) return undefined;
  const own = firstUid + process.pid;
  // A user namespace may know few ids.
  const id = isMapped(own) ? own : nobody;
  return { uid: id, gid: id, groups: needsKvm ? [statSync("/dev/kvm").gid] : [] };
}
