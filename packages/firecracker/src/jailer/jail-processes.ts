/** The processes of a jail, found by what they cannot hide: that their root directory is the jail's. */
import { readFileSync, statSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { type VmmIdentity, vmmIdentity } from "../process-identity.ts";

/** Whether a process's root is the directory `root`; false when either is gone. */
export function isRootedAt(pid: number, root: string): boolean {
  try {
    const wanted = statSync(root, { bigint: true });
    const found = statSync(`/proc/${pid}/root/`, { bigint: true });
    return wanted.dev === found.dev && wanted.ino === found.ino;
  } catch {
    return false;
  }
}

/** Every process in the jail, whoever is its parent. */
export async function jailProcesses(root: string): Promise<VmmIdentity[]> {
  const found: VmmIdentity[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name) || !isRootedAt(Number(name), root)) continue;
    const identity = vmmIdentity(Number(name));
    if (identity) found.push(identity);
  }
  return found;
}

/** The processes in a cgroup directory itself; none when it is gone. */
export function cgroupProcesses(directory: string): VmmIdentity[] {
  let text: string;
  try {
    text = readFileSync(`${directory}/cgroup.procs`, "latin1");
  } catch {
    return [];
  }
  return text
    .split("\n")
    .filter(Boolean)
    .flatMap((pid) => vmmIdentity(Number(pid)) ?? []);
}
