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

const [groupMay, othersMay] = [0o060, 0o006];

/** Whether /dev/kvm can be opened by others than its owner. */
export function isKvmShared(): boolean {
  const { mode } = statSync("/dev/kvm");
  return (mode & groupMay) === groupMay || (mode & othersMay) === othersMay;
}

/** The user for this process's QEMU; undefined when it is ours: we are not root, or root alone may use KVM. */
export function qemuUser(needsKvm: boolean): QemuUser | undefined {
  if (process.geteuid?.() !== 0 || (needsKvm && !isKvmShared())) return undefined;
  const own = firstUid + process.pid;
  // A user namespace may know few ids.
  const id = isMapped(own) ? own : nobody;
  return { uid: id, gid: id, groups: needsKvm ? [statSync("/dev/kvm").gid] : [] };
}
