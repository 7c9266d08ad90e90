/** A terminal's side of exec and attach: WebSocket with the v5.channel.k8s.io protocol, as the daemon's streaming server speaks it. */
import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import * as v from "valibot";
import WebSocket from "ws";
import { TinderboxError } from "../base/errors.ts";

const channels = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;

const statusSchema = v.object({
  status: v.string(),
  message: v.optional(v.string()),
  reason: v.optional(v.string()),
  details: v.optional(
    v.object({ causes: v.optional(v.array(v.object({ reason: v.string(), message: v.string() }))) }),
  ),
});

export type StreamOptions = {
  /** Forwarded until it ends; undefined: none */
  readonly stdin: Readable | undefined;
  readonly stdout: Writable;
  readonly stderr: Writable;
  /** A terminal whose size is told */
  readonly terminal: { columns?: number | undefined; rows?: number | undefined } | undefined;
  readonly signal: AbortSignal;
};

/** A connection whose output flows; `exitCode` is undefined when the server does not tell one (attach). */
export type StreamConnection = {
  readonly ended: Promise<number | undefined>;
  close(): void;
};

/** What an error channel's message says. @throws what it says when it is not an exit status */
function exitCodeOf(text: string): number | undefined {
  if (text === "") return undefined;
  const { status, message, reason, details } = v.parse(statusSchema, JSON.parse(text));
  if (status === "Success") return 0;
  const code = details?.causes?.find((cause) => cause.reason === "ExitCode")?.message;
  if (reason === "NonZeroExitCode" && code !== undefined) return Number(code);
  throw new TinderboxError("RUNTIME", message ?? reason ?? "the stream failed");
}

/** Opens the stream at `url`, which came from Exec or Attach. Resolves when the server has accepted. */
export async function openStream(url: string, options: StreamOptions): Promise<StreamConnection> {
  const socket = new WebSocket(url.replace(/^http/, "ws"), ["v5.channel.k8s.io"], {
    perMessageDeflate: false,
    handshakeTimeout: 10_000,
  });
  const ended = Promise.withResolvers<number | undefined>();
  ended.promise.catch(() => {});
  let error = "";
  let pending = 0;
  // A slow terminal must not make us hold a fast container's output.
  const write = (to: Writable, data: Buffer): void => {
    if (to.write(data)) return;
    pending += 1;
    socket.pause();
    to.once("drain", () => {
      pending -= 1;
      if (pending === 0) socket.resume();
    });
  };
  socket.on("message", (message: Buffer) => {
    const data = message.subarray(1);
    if (message[0] === channels.stdout) write(options.stdout, data);
    else if (message[0] === channels.stderr) write(options.stderr, data);
    else if (message[0] === channels.error) error += data.toString("utf8");
  });
  const send = (channel: number, data: Uint8Array, done?: () => void): void => {
    if (socket.readyState === WebSocket.OPEN) socket.send(Buffer.concat([Buffer.of(channel), data]), done);
  };
  const { stdin, terminal } = options;
  const onData = (data: Buffer): void => {
    stdin?.pause();
    send(channels.stdin, data, () => stdin?.resume());
  };
  const onEnd = (): void => send(channels.close, Buffer.of(channels.stdin));
  const onResize = (): void => {
    const size = { Width: terminal?.columns || 80, Height: terminal?.rows || 24 };
    send(channels.resize, Buffer.from(JSON.stringify(size)));
  };
  const onAbort = (): void => socket.terminate();
  const cleanUp = (): void => {
    stdin?.off("data", onData).off("end", onEnd).pause();
    process.off("SIGWINCH", onResize);
    options.signal.removeEventListener("abort", onAbort);
  };
  socket.on("close", () => {
    cleanUp();
    try {
      ended.resolve(exitCodeOf(error));
    } catch (cause) {
      ended.reject(cause);
    }
  });
  options.signal.addEventListener("abort", onAbort, { once: true });
  try {
    options.signal.throwIfAborted();
    await once(socket, "open", { signal: options.signal });
  } catch (cause) {
    cleanUp();
    socket.on("error", () => {});
    socket.terminate();
    throw new TinderboxError(
      options.signal.aborted ? "ABORTED" : "UNAVAILABLE",
      `the daemon's stream at ${new URL(url).host}: ${TinderboxError.from(cause).message}`,
      { cause },
    );
  }
  socket.on("error", (cause) => ended.reject(TinderboxError.from(cause, "UNAVAILABLE")));
  if (terminal !== undefined) {
    onResize();
    process.on("SIGWINCH", onResize);
  }
  stdin?.on("data", onData).on("end", onEnd);
  return { ended: ended.promise, close: () => socket.close() };
}

/** Gives `use` our standard input as it comes, raw when it is a terminal and `terminal` is wanted. */
export async function withRawTerminal<T>(isTerminal: boolean, use: () => Promise<T>): Promise<T> {
  const isRaw = isTerminal && process.stdin.isTTY;
  if (isRaw) process.stdin.setRawMode(true);
  try {
    return await use();
  } finally {
    if (isRaw) process.stdin.setRawMode(false);
  }
}
