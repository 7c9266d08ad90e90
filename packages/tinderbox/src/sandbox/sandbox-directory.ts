/** Where a sandbox keeps its files, and who may be named there. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import type { ProcessIdentity } from "../base/process-identity.ts";
import type { SandboxRecord } from "./contract.ts";

/** sockaddr_un has 108 bytes, the last of them 0. */
const longestSocketPath = 107;

/** The directory of sandbox `id`: short, because sockets live in it. @throws CONFIG when `stateDir` is too long for that */
export function sandboxDirectory(stateDir: string, id: string): string {
  const name = /^[0-9a-zA-Z]{1,24}$/.test(id)
    ? id
    : createHash("sha256").update(id).digest("hex").slice(0, 24);
  const directory = join(stateDir, "sandboxes", name);
  const longest = Buffer.byteLength(join(directory, "vsock.sock_1024"));
  if (longest > longestSocketPath) {
    throw new TinderboxError(
      "CONFIG",
      `state ${stateDir}: sockets below it need ${longest} bytes of path; ${longestSocketPath} are possible`,
    );
  }
  return directory;
}

/** A process identity out of a JSON text; undefined when it is none. */
export function parseProcessIdentity(text: string): ProcessIdentity | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || !("pid" in value) || !("startTime" in value))
      return undefined;
    const startTime = typeof value.startTime === "number" ? String(value.startTime) : value.startTime;
    if (!Number.isSafeInteger(value.pid) || typeof value.pid !== "number" || typeof startTime !== "string")
      return undefined;
    return { pid: value.pid, startTime };
  } catch {
    return undefined;
  }
}

/**
 * What the containers of a pod share as /dev/shm, by a path of its place: of its own, or the host's with the host's IPC.
 * undefined: each container has its own.
 */
export function sharedMemoryPath({
  place,
  directory,
  generation = 1,
  spec,
}: SandboxRecord): string | undefined {
  if (generation < 2) return undefined;
  return place === "host" && !spec.hostIpc ? join(directory, "shm") : "/dev/shm";
}
