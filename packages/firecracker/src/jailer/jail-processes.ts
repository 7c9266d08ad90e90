/**
 * The processes of a jail: those whose root directory is the jail's, which they cannot hide, and a jailer on its way
 * into it, whose command line says so.
 */
import { readFileSync, statSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { type VmmIdentity, vmmIdentity } from "../process-identity.ts";
import type { JailRecord } from "./jail-record.ts";

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

/** Whether a process is the jailer of that jail, before it has changed its root. */
function isJailerOf(pid: number, { id, directory, execName }: JailRecord): boolean {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return false;
  }
  const args = text.split("\0");
  const argumentOf = (flag: string): string => args[args.indexOf(flag) + 1] ?? "";
  return (
    argumentOf("--id") === id &&
    basename(argumentOf("--exec-file")) === execName &&
    argumentOf("--chroot-base-dir") === dirname(dirname(directory))
  );
}

/** Every process in the jail or on its way into it, whoever is its parent. */
export async function jailProcesses(record: JailRecord): Promise<VmmIdentity[]> {
  const found: VmmIdentity[] = [];
  for (const name of await readdir("/proc")) {
    const pid = Number(name);
    if (!/^\d+$/.test(name) || !(isRootedAt(pid, record.root) || isJailerOf(pid, record))) continue;
    const identity = vmmIdentity(pid);
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
