/** The VMM's output: a file of its own (a pipe would wedge it when the daemon ends), kept small while a daemon is there. */
import { closeSync, type FSWatcher, openSync, watch } from "node:fs";
import { copyFile, open, stat, truncate } from "node:fs/promises";

const limitBytes = 1 << 20;
const tailBytes = 4096;

/** A descriptor for the VMM's stdout and stderr. Appending, so that cutting the file does not leave a hole. */
export function openConsole(path: string): { readonly fd: number; close(): void } {
  const fd = openSync(path, "a", 0o600);
  return { fd, close: () => closeSync(fd) };
}

/** Keeps the file below 1 MiB: what was there goes to `<path>.1`. */
export function boundConsole(path: string): FSWatcher {
  let busy = false;
  const cut = async (): Promise<void> => {
    if ((await stat(path)).size <= limitBytes) return;
    await copyFile(path, `${path}.1`);
    await truncate(path, 0);
  };
  const watcher = watch(path, { persistent: false }, () => {
    if (busy) return;
    busy = true;
    cut()
      .catch(() => {})
      .finally(() => {
        busy = false;
      });
  });
  watcher.on("error", () => watcher.close());
  return watcher;
}

/** The last of what the console said, for error messages. */
export async function consoleTail(path: string): Promise<string> {
  try {
    await using file = await open(path, "r");
    const { size } = await file.stat();
    const { buffer, bytesRead } = await file.read(
      Buffer.alloc(Math.min(size, tailBytes)),
      0,
      Math.min(size, tailBytes),
      Math.max(0, size - tailBytes),
    );
    // A guest's text: no control characters into the host's terminals.
    return buffer
      .toString("utf8", 0, bytesRead)
      .replace(/[^\P{Cc}\n]/gu, "")
      .trim();
  } catch {
    return "";
  }
}
