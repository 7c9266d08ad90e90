/** Waits for a unix socket by the file system's events, not by looking again and again. */
import { existsSync, type FSWatcher, watch } from "node:fs";
import { readFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { dirname, relative } from "node:path";

/** Whether a socket accepts: now, soon (it is bound), or its file is not there yet. */
export type SocketProbe = (path: string) => Promise<"ready" | "soon" | "absent">;

/** By connecting to it. */
export function connects(path: string): ReturnType<SocketProbe> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve("ready");
    });
    socket.once("error", (cause: NodeJS.ErrnoException) => {
      if (cause.code === "ECONNREFUSED") resolve("soon");
      else if (cause.code === "ENOENT" || cause.code === "ENOTDIR") resolve("absent");
      else reject(cause);
    });
  });
}

/** By the kernel's list of this network namespace, for a server that accepts once. It must have bound this very path. */
export async function isListed(path: string): ReturnType<SocketProbe> {
  if (!existsSync(path)) return "absent";
  for (const line of (await readFile("/proc/net/unix", "utf8")).split("\n")) {
    // Num RefCount Protocol Flags Type St Inode Path; the flag is __SO_ACCEPTCON.
    const match = /^\S+ \S+ \S+ (\S+) \S+ \S+ +\d+ (.*)$/.exec(line);
    if (match?.[2] === path && (Number.parseInt(match[1] ?? "", 16) & 0x10000) !== 0) return "ready";
  }
  return "soon";
}

/**
 * Resolves when something accepts on `path`. Folders on the way to it may come later: the deepest that is there is
 * watched. Rejects with the signal's reason.
 */
export async function socketReady(
  path: string,
  signal: AbortSignal,
  probe: SocketProbe = connects,
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    let watcher: FSWatcher | undefined;
    let watched = "";
    let isTrying = false;
    let isDue = false;
    let retry: NodeJS.Timeout | undefined;
    const finish = (act: () => void): void => {
      watcher?.close();
      clearTimeout(retry);
      signal.removeEventListener("abort", onAbort);
      act();
    };
    const onAbort = (): void => finish(() => reject(signal.reason));
    const follow = (): void => {
      for (;;) {
        let deepest = dirname(path);
        while (!existsSync(deepest)) deepest = dirname(deepest);
        if (deepest === watched) return;
        watcher?.close();
        try {
          const next = relative(deepest, path).split("/")[0];
          watcher = watch(deepest, (_event, name) => {
            if (name === null || name === next) attempt();
          });
        } catch (cause) {
          // Gone between the look and the watch: look again.
          if ((cause as NodeJS.ErrnoException).code === "ENOENT") continue;
          throw cause;
        }
        watcher.on("error", (cause) => finish(() => reject(cause)));
        watched = deepest;
      }
    };
    const attempt = (): void => {
      isDue = true;
      if (isTrying || signal.aborted) return;
      isTrying = true;
      isDue = false;
      try {
        follow();
      } catch (cause) {
        finish(() => reject(cause));
        return;
      }
      probe(path).then(
        (state) => {
          isTrying = false;
          if (signal.aborted) return;
          if (state === "ready") finish(resolve);
          // Between bind() and listen() the file is there and refuses; nothing announces listen().
          else if (state === "soon") retry = setTimeout(attempt, 1);
          else if (isDue) attempt();
        },
        (cause) => finish(() => reject(cause)),
      );
    };
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) return onAbort();
    attempt();
  });
}
