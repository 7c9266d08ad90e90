/** A process named so that a reused pid is never taken for it: pid and kernel start time. */
import { readdirSync, readFileSync, statSync } from "node:fs";

/** One process, among all that ever have its pid. */
export type VmmIdentity = {
  /** In our pid namespace */
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, clock ticks since boot */
  readonly startTime: string;
};

/** The identity of a live process; undefined when there is none (a zombie is none). */
export function vmmIdentity(pid: number): VmmIdentity | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The command name, in parentheses, may itself hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const startTime = fields[19];
  return startTime === undefined || fields[0] === "Z" || fields[0] === "X" ? undefined : { pid, startTime };
}

/** Whether that very process still runs. */
export function isVmmAlive(identity: VmmIdentity): boolean {
  return vmmIdentity(identity.pid)?.startTime === identity.startTime;
}

/** Sends a signal to that very process; false when it is gone. Looked at right before: as near to a pidfd as Node comes. */
export function signalVmm(identity: VmmIdentity, signal: NodeJS.Signals): boolean {
  if (!isVmmAlive(identity)) return false;
  try {
    return process.kill(identity.pid, signal);
  } catch {
    return false;
  }
}

/** The kernel's name for this boot: start times count from it. */
export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}

/**
 * Live processes that have `args` in a row in their command lines and, if given, `rootDirectory` as their root. For
 * one that was started but not yet written down.
 */
export function findVmms(args: readonly string[], rootDirectory?: string): VmmIdentity[] {
  const needle = `\0${args.join("\0")}\0`;
  const found: VmmIdentity[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    try {
      if (!`\0${readFileSync(`/proc/${name}/cmdline`, "utf8")}`.includes(needle)) continue;
      if (rootDirectory !== undefined) {
        const [wanted, root] = [statSync(rootDirectory), statSync(`/proc/${name}/root/`)];
        if (wanted.dev !== root.dev || wanted.ino !== root.ino) continue;
      }
    } catch {
      continue;
    }
    const identity = vmmIdentity(Number(name));
    if (identity) found.push(identity);
  }
  return found;
}
