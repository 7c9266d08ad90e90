/** A process named so that a reused pid is never taken for it: pid and kernel start time. */
import { readFileSync } from "node:fs";

export type VmmIdentity = {
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

/** Sends a signal to that very process; false when it is gone. */
export function signalVmm(identity: VmmIdentity, signal: NodeJS.Signals): boolean {
  if (!isVmmAlive(identity)) return false;
  try {
    return process.kill(identity.pid, signal);
  } catch {
    return false;
  }
}
