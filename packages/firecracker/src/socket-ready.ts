/** Waits for a unix socket by the file system's events, not by looking again and again. */
import { existsSync, type FSWatcher, watch } from "node:fs";
import { createConnection } from "node:net";
import { dirname } from "node:path";

/**
 * Resolves when something accepts on `path`. Folders on the way to it may come later: the deepest that is there is
 * watched. Rejects with the signal's reason.
 */
export async function socketReady(path: string, signal: AbortSignal): Promise<void> {
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
          watcher = watch(deepest, attempt);
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
      const socket = createConnection(path);
      socket.once("connect", () => {
        socket.destroy();
        finish(resolve);
      });
      socket.once("error", (cause: NodeJS.ErrnoException) => {
        isTrying = false;
        if (signal.aborted) return;
        // Between bind() and listen() the file is there and refuses; nothing announces listen().
        if (cause.code === "ECONNREFUSED") retry = setTimeout(attempt, 1);
        else if (cause.code !== "ENOENT" && cause.code !== "ENOTDIR") finish(() => reject(cause));
        else if (isDue) attempt();
      });
    };
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) return onAbort();
    attempt();
  });
}
