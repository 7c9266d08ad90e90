/**
 * Hybrid vsock on the host: a unix socket that asks for `CONNECT <port>\n` and answers `OK <host port>\n`, and, for
 * connections from the guest, a listener of ours at `<uds>_<port>`. Half-close is not carried in either direction.
 */
import { unlink } from "node:fs/promises";
import { createConnection, createServer, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { FirecrackerVsockError } from "./errors.ts";

/** "OK 4294967295\n" is 14 bytes; anything longer is not an answer to CONNECT. */
const longestAnswer = 32;

/**
 * Connects to `port` in the guest. Bytes that came right behind the OK line are the stream's first.
 * @throws {FirecrackerVsockError} FC_VSOCK when nobody listens there or the VMM is gone
 */
export function dialVsock(udsPath: string, port: number, signal?: AbortSignal): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const socket = createConnection({ path: udsPath, allowHalfOpen: false });
    let head = Buffer.alloc(0);
    const fail = (message: string, cause?: unknown): void => {
      cleanUp();
      socket.destroy();
      reject(
        signal?.aborted
          ? signal.reason
          : new FirecrackerVsockError(`vsock port ${port} by ${udsPath}: ${message}`, cause),
      );
    };
    const onError = (cause: Error): void => fail(cause.message, cause);
    const onEnd = (): void =>
      fail("the connection was closed instead of an OK (nobody listens there in the guest)");
    const onAbort = (): void => fail("aborted");
    const onReadable = (): void => {
      for (let chunk: Buffer | null = socket.read(); chunk !== null; chunk = socket.read()) {
        head = Buffer.concat([head, chunk]);
        const newline = head.indexOf(10);
        if (newline < 0) {
          if (head.length <= longestAnswer) continue;
          fail("the answer to CONNECT is too long");
          return;
        }
        const line = head.subarray(0, newline).toString("latin1");
        if (!/^OK \d{1,10}$/.test(line)) {
          fail(`CONNECT was answered with ${JSON.stringify(line.slice(0, longestAnswer))}`);
          return;
        }
        cleanUp();
        const rest = head.subarray(newline + 1);
        if (rest.length > 0) socket.unshift(rest);
        resolve(socket);
        return;
      }
    };
    const cleanUp = (): void => {
      socket.off("error", onError).off("end", onEnd).off("close", onEnd).off("readable", onReadable);
      signal?.removeEventListener("abort", onAbort);
      // Never without an error listener: an unheard error would end the program.
      socket.on("error", () => {});
    };
    socket.on("error", onError).on("end", onEnd).on("close", onEnd).on("readable", onReadable);
    signal?.addEventListener("abort", onAbort, { once: true });
    // In one write: the VMM reads the command in one burst.
    socket.once("connect", () => socket.write(`CONNECT ${port}\n`));
  });
}

export type VsockListener = AsyncDisposable & {
  /** The unix socket's path */
  readonly path: string;
  /** The next connection of the guest. */
  accept(signal?: AbortSignal): Promise<Duplex>;
  /** Stops listening and removes the socket file; accepted connections live on. */
  close(): Promise<void>;
};

/** Listens for the guest's connections to host port `port`. Make it before the guest starts and nobody need poll. */
export async function listenVsock(udsPath: string, port: number): Promise<VsockListener> {
  const path = `${udsPath}_${port}`;
  const waiting: ((socket: Socket) => void)[] = [];
  const arrived: Socket[] = [];
  const server = createServer((socket) => {
    socket.on("error", () => {});
    const next = waiting.shift();
    if (next) return next(socket);
    // A guest that dials without end gets no more than this for free.
    if (arrived.length >= 64) socket.destroy();
    else arrived.push(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(new FirecrackerVsockError(`${path}: ${cause.message}`, cause)));
    server.listen(path, resolve);
  });
  let closed = false;
  const close = async (): Promise<void> => {
    if (closed) return;
    closed = true;
    for (const socket of arrived.splice(0)) socket.destroy();
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
        const onSocket = (socket: Socket): void => {
          signal?.removeEventListener("abort", onAbort);
          resolve(socket);
        };
        const onAbort = (): void => {
          waiting.splice(waiting.indexOf(onSocket), 1);
          reject(signal?.reason);
        };
        waiting.push(onSocket);
        signal?.addEventListener("abort", onAbort, { once: true });
      }),
    close,
    [Symbol.asyncDispose]: close,
  };
}
