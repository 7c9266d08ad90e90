/** The VMM's pid where the jailer's own is not it (`--daemonize`, `--new-pid-ns`): read from the pid file the moment it is written. */
import { watch } from "node:fs";
import { constants, open } from "node:fs/promises";
import { type VmmIdentity, vmmIdentity } from "../process-identity.ts";
import { isRootedAt } from "./jail-processes.ts";
import { hostPathInJail, type JailRecord, pidFileOf } from "./jail-record.ts";

/** The process that the pid file names: `none` while nothing is written, `ended` when no process in this jail has that pid. */
export async function readPidFile(record: JailRecord): Promise<VmmIdentity | "none" | "ended"> {
  // The file lies in a directory of the jail's user: a link there is not followed, and more than a number not read.
  const handle = await open(
    pidFileOf(record),
    constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
  ).catch(() => undefined);
  if (handle === undefined) return "none";
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(16), 0, 16, 0);
    const text = buffer.subarray(0, bytesRead).toString("latin1");
    if (text === "") return "none";
    const identity = /^[1-9]\d*$/.test(text) ? vmmIdentity(Number(text)) : undefined;
    return identity && isRootedAt(identity.pid, record.root) ? identity : "ended";
  } finally {
    await handle.close();
  }
}

/** Resolves when the jailer has written the pid, with `ended` when that process has gone again; the directory's events wake it. Rejects with the signal's reason. */
export async function awaitPidFile(record: JailRecord, signal: AbortSignal): Promise<VmmIdentity | "ended"> {
  signal.throwIfAborted();
  const name = `${record.execName}.pid`;
  return await new Promise((resolve, reject) => {
    let looking = false;
    let again = false;
    const watcher = watch(hostPathInJail(record, "/"), (_event, changed) => {
      if (changed === null || changed === name) look();
    });
    const finish = (act: () => void): void => {
      watcher.close();
      signal.removeEventListener("abort", onAbort);
      act();
    };
    const onAbort = (): void => finish(() => reject(signal.reason));
    const look = (): void => {
      again = true;
      if (looking) return;
      looking = true;
      again = false;
      readPidFile(record).then(
        (found) => {
          looking = false;
          if (found !== "none") finish(() => resolve(found));
          else if (again) look();
        },
        (cause) => finish(() => reject(cause)),
      );
    };
    watcher.on("error", (cause) => finish(() => reject(cause)));
    signal.addEventListener("abort", onAbort, { once: true });
    look();
  });
}
