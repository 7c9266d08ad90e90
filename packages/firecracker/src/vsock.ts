/**
 * Hybrid vsock on the host: a unix socket that asks for `CONNECT <port>\n` and answers `OK <host port>\n`.
 * Half-close is not carried in either direction: a protocol has to frame its own end.
 */
import { createConnection } from "node:net";
import type { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { FirecrackerArgumentError, FirecrackerVsockError } from "./errors.ts";

/** "OK 4294967295\n" is 14 bytes; anything longer is not an answer to CONNECT. */
const longestAnswer = 32;

/** How to dial. */
export type DialOptions = {
  /** Gives up */
  readonly signal?: AbortSignal | undefined;
  /** ms for one attempt: a guest without a vsock driver yet answers nothing. @default 10_000 */
  readonly timeoutMs?: number;
  /**
   * Tries again after a refusal, for a guest that boots: nothing tells when its server listens. Waits between two
   * tries, ms, doubled up to `maxMs`. Better: have the guest call (`listenVsock`). @default one try
   */
  readonly retry?: {
    /** @default 5 */
    readonly firstMs?: number;
    /** @default 200 */
    readonly maxMs?: number;
    /** ms for all tries. @default 30_000 */
    readonly totalMs?: number;
  };
};

/**
 * Connects to `port` in the guest. Bytes that came right behind the OK line are the stream's first.
 * @throws {FirecrackerVsockError} FC_VSOCK when nobody listens there or the VMM is gone
 */
export async function dialVsock(udsPath: string, port: number, options: DialOptions = {}): Promise<Duplex> {
  if (!Number.isInteger(port) || port < 0 || port > 0xffff_ffff)
    throw new FirecrackerArgumentError("port", `${port} is not within 0..4294967295`);
  const { signal, retry } = options;
  const timeoutMs = options.timeoutMs ?? 10_000;
  if (retry === undefined) return dialOnce(udsPath, port, timeoutMs, signal);
  const end = performance.now() + (retry.totalMs ?? 30_000);
  for (let waitMs = retry.firstMs ?? 5; ; waitMs = Math.min(waitMs * 2, retry.maxMs ?? 200)) {
    const leftMs = Math.max(1, end - performance.now());
    try {
      return await dialOnce(udsPath, port, Math.min(timeoutMs, leftMs), signal);
    } catch (cause) {
      if (signal?.aborted || performance.now() + waitMs >= end) throw cause;
    }
    await delay(waitMs, undefined, signal && { signal }).catch((cause) => {
      throw signal?.aborted ? signal.reason : cause;
    });
  }
}

function dialOnce(
  udsPath: string,
  port: number,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<Duplex> {
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
      clearTimeout(timer);
      socket.off("error", onError).off("end", onEnd).off("close", onEnd).off("readable", onReadable);
      signal?.removeEventListener("abort", onAbort);
      // Never without an error listener: an unheard error would end the program.
      socket.on("error", () => {});
    };
    const timer = setTimeout(() => fail(`no answer to CONNECT in ${timeoutMs} ms`), timeoutMs);
    socket.on("error", onError).on("end", onEnd).on("close", onEnd).on("readable", onReadable);
    signal?.addEventListener("abort", onAbort, { once: true });
    // In one write: the VMM reads the command in one burst.
    socket.once("connect", () => socket.write(`CONNECT ${port}\n`));
  });
}
