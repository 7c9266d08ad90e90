/**
 * One daemon a root directory: an exclusive SQLite lock on a file in it, which the kernel lets go of when the process
 * ends, however it ends. The pid beside it is for people only.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { TinderboxError } from "../base/errors.ts";

function holderOf(pidFile: string): string {
  try {
    return readFileSync(pidFile, "utf8").trim();
  } catch {
    return "unknown";
  }
}

/** Takes the lock until it is disposed of. @throws WRONG_STATE naming the process that has it */
export function lockRoot(root: string): Disposable {
  const pidFile = join(root, "daemon.pid");
  const lock = new DatabaseSync(join(root, "daemon.lock"));
  try {
    lock.exec("PRAGMA busy_timeout = 0; PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE");
  } catch (cause) {
    lock.close();
    if (!TinderboxError.from(cause).message.includes("locked")) {
      throw new TinderboxError("CONFIG", `${root}: cannot be locked: ${TinderboxError.from(cause).message}`, {
        cause,
      });
    }
    throw new TinderboxError(
      "WRONG_STATE",
      `root ${root} is in use by another tinderboxd, pid ${holderOf(pidFile)}`,
      {
        cause,
        hint: "stop it, or give this one a --root, --state and --listen of its own",
      },
    );
  }
  writeFileSync(pidFile, `${process.pid}\n`, { mode: 0o600 });
  return { [Symbol.dispose]: () => lock.close() };
}
