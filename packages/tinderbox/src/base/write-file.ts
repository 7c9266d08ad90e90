/** Files that are whole or absent, whatever happens: temp + fsync + rename. */
import { open, rename, rm } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { span } from "./trace.ts";

let sequence = 0;

/** Writes `content` to `path` so that a reader, or a crash, sees the old content or all of the new. */
export function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
  return span(
    "write",
    () => basename(path),
    () => write(path, content, mode),
  );
}

async function write(path: string, content: string | Uint8Array, mode: number): Promise<void> {
  const temporary = `${path}.${process.pid}.${sequence++}.tmp`;
  try {
    const file = await open(temporary, "wx", mode);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncDirectory(dirname(path));
  } catch (cause) {
    await rm(temporary, { force: true });
    throw cause;
  }
}

/** Makes renames and removals in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
