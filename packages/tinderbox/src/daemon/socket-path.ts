/** The CRI socket's place: a directory of root's own, and no file of a daemon that is gone. */
import { chmodSync, mkdirSync, rmSync, statSync } from "node:fs";
import { createConnection } from "node:net";
import { dirname } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";

async function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (cause) => {
      const errno = errnoOf(cause);
      if (errno === "ECONNREFUSED" || errno === "ENOENT") resolve(false);
      else reject(new TinderboxError("CONFIG", `listen ${path}: ${cause.message}`, { cause }));
    });
  });
}

/** Makes the way free for a listener at `path`. @throws CONFIG when something else is there, WRONG_STATE when it answers */
export async function prepareSocketPath(path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new TinderboxError("CONFIG", `listen ${path}: a file that is not a socket is there`);
  if (await answers(path))
    throw new TinderboxError("WRONG_STATE", `listen ${path}: another daemon answers there`);
  rmSync(path);
}

/** Runs `listen` so that the socket it makes is for its owner only from the first moment. */
export async function withPrivateSocket(path: string, listen: () => Promise<void>): Promise<void> {
  const before = process.umask(0o177);
  try {
    await listen();
  } finally {
    process.umask(before);
  }
  chmodSync(path, 0o600);
}
