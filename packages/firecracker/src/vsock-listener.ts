/** The guest's connections to the host: the VMM connects to `<uds>_<port>`, where we listen. */
import { unlink } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { FirecrackerArgumentError, FirecrackerVsockError } from "./errors.ts";

/** Listens on one vsock port of the host. */
export type VsockListener = AsyncDisposable & {
  /** The unix socket's path */
  readonly path: string;
  /** The next connection of the guest. Rejects with the signal's reason, or FC_VSOCK once closed. */
  accept(signal?: AbortSignal): Promise<Duplex>;
  /** Stops listening and removes the socket file; accepted connections live on. */
  close(): Promise<void>;
};

/** How to listen. */
export type ListenOptions = {
  /** Connections kept for `accept`; more are closed at once. @default 64 */
  readonly backlog?: number;
};

/**
 * Listens for the guest's connections to host port `port`. Make it before the guest starts and nobody need poll. For a
 * jailed VMM the folder must be reachable by its user, and the socket writable.
 * @throws {FirecrackerVsockError} FC_VSOCK when the path is in use
 */
export async function listenVsock(
  udsPath: string,
  port: number,
  options: ListenOptions = {},
): Promise<VsockListener> {
  if (!Number.isInteger(port) || port < 0 || port > 0xffff_ffff)
    throw new FirecrackerArgumentError("port", `${port} is not within 0..4294967295`);
  const backlog = options.backlog ?? 64;
  const path = `${udsPath}_${port}`;
  const waiting = new Set<{ take(socket: Socket): void; giveUp(cause: unknown): void }>();
  const arrived: Socket[] = [];
  const server = createServer((socket) => {
    socket.on("error", () => {});
    const [next] = waiting;
    if (next) return next.take(socket);
    // A guest that dials without end gets no more than this for free.
    if (arrived.length >= backlog) socket.destroy();
    else arrived.push(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(new FirecrackerVsockError(`${path}: ${cause.message}`, cause)));
    server.listen(path, resolve);
  });
  let isClosed = false;
  const closedError = (): FirecrackerVsockError =>
    new FirecrackerVsockError(`${path}: the listener is closed`);
  const close = async (): Promise<void> => {
    if (isClosed) return;
    isClosed = true;
    for (const socket of arrived.splice(0)) socket.destroy();
    for (const waiter of [...waiting]) waiter.giveUp(closedError());
    server.close();
    await unlink(path).catch(() => {});
  };
  return {
    path,
    accept: (signal) =>
      new Promise((resolve, reject) => {
        const ready = arrived.shift();
        if (ready) return resolve(ready);
        if (signal?.aborted) return reject(signal.reason);
        if (isClosed) return reject(closedError());
        const settle = (): void => {
          waiting.delete(waiter);
          signal?.removeEventListener("abort", onAbort);
        };
        const waiter = {
          take(socket: Socket): void {
            settle();
            resolve(socket);
          },
          giveUp(cause: unknown): void {
            settle();
            reject(cause);
          },
        };
        const onAbort = (): void => waiter.giveUp(signal?.reason);
        waiting.add(waiter);
        signal?.addEventListener("abort", onAbort, { once: true });
      }),
    close,
    [Symbol.asyncDispose]: close,
  };
}
