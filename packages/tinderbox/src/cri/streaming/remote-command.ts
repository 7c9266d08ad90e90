/** An exec or attach between a client's channels and a process's streams, whatever the client's protocol is. */
import { TinderboxError } from "../../base/errors.ts";
import type { ProcessStreams } from "../../sandbox/contract.ts";
import type { SessionEnd } from "./exit-status.ts";

export type TerminalSize = { readonly width: number; readonly height: number };

/** The client's side; SPDY and WebSocket implement it. */
export type ClientChannels = {
  /** Ends with the client's half-close, throws when it goes away. undefined: not asked for */
  readonly stdin: AsyncIterable<Uint8Array> | undefined;
  /** Resolves when the socket has taken the bytes; a channel that was not asked for takes them to nowhere. */
  write(channel: "stdout" | "stderr", data: Uint8Array): Promise<void>;
  /** Sizes from now on, and the last one that came before. */
  onResize(listener: (size: TerminalSize) => void): void;
  /** Ends the outputs, tells how it went, and closes. */
  finish(end: SessionEnd): Promise<void>;
  readonly closed: Promise<void>;
};

async function pumpStdin(stdin: AsyncIterable<Uint8Array>, streams: ProcessStreams): Promise<void> {
  // A client that goes away has not ended its input; then the loop throws and the process's stdin stays as it is.
  for await (const chunk of stdin) await streams.writeStdin(chunk);
  streams.endStdin();
}

/** Runs it to the end of the process or of the client. Throws nothing. */
export async function runRemoteCommand(
  open: () => Promise<ProcessStreams>,
  channels: ClientChannels,
): Promise<void> {
  let streams: ProcessStreams;
  try {
    streams = await open();
  } catch (thrown) {
    await channels.finish({ kind: "failure", message: TinderboxError.from(thrown).message }).catch(() => {});
    return;
  }
  try {
    void channels.closed.then(() => streams.close());
    channels.onResize(({ width, height }) => streams.resize(width, height));
    // A process that does not read its input any more goes on without it.
    if (channels.stdin !== undefined) void pumpStdin(channels.stdin, streams).catch(() => {});
    for await (const { channel, data } of streams.output()) await channels.write(channel, data);
    await channels.finish({ kind: "exit", exit: await streams.exit });
  } catch (thrown) {
    await channels.finish({ kind: "failure", message: TinderboxError.from(thrown).message }).catch(() => {});
  } finally {
    streams.close();
  }
}
