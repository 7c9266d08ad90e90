/** The channels of an exec or attach as streams of a SPDY connection, told apart by their `streamtype` header. */
import type { Duplex } from "node:stream";
import { TinderboxError } from "../../base/errors.ts";
import { type SessionEnd, statusJson, statusText } from "./exit-status.ts";
import type { ClientChannels } from "./remote-command.ts";
import { SpdyConnection, type SpdyStream } from "./spdy-connection.ts";
import { TerminalSizes } from "./terminal-sizes.ts";

/** In the order of preference when a client leaves it to us; v5's close signal exists on WebSocket only. */
export const spdyCommandProtocols = [
  "v4.channel.k8s.io",
  "v3.channel.k8s.io",
  "v2.channel.k8s.io",
  "channel.k8s.io",
] as const;
export type SpdyCommandProtocol = (typeof spdyCommandProtocols)[number];

const streamsTimeoutMs = 30_000;

export type WantedStreams = {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
};
type StreamType = "error" | "stdin" | "stdout" | "stderr" | "resize";

function expectedTypes(wanted: WantedStreams, protocol: SpdyCommandProtocol): ReadonlySet<string> {
  const hasResize = protocol === "v4.channel.k8s.io" || protocol === "v3.channel.k8s.io";
  const types: StreamType[] = ["error"];
  if (wanted.stdin) types.push("stdin");
  if (wanted.stdout) types.push("stdout");
  if (wanted.stderr && !wanted.tty) types.push("stderr");
  if (wanted.tty && hasResize) types.push("resize");
  return new Set(types);
}

/** Waits until the client has opened all streams. @throws TIMEOUT, ABORTED */
export async function openSpdyChannels(
  transport: Duplex,
  head: Buffer,
  wanted: WantedStreams,
  protocol: SpdyCommandProtocol,
): Promise<ClientChannels> {
  const expected = expectedTypes(wanted, protocol);
  const streams = new Map<string, SpdyStream>();
  const complete = Promise.withResolvers<void>();
  const connection = new SpdyConnection(transport, (stream) => {
    const type = stream.headers.get("streamtype") ?? "";
    if (!expected.has(type) || streams.has(type)) return false;
    streams.set(type, stream);
    // Nothing is read from these; the client half-closes them or leaves them alone.
    if (type !== "stdin" && type !== "resize") stream.input.discard();
    if (streams.size === expected.size) complete.resolve();
    return true;
  });
  void connection.run(head);
  const timer = setTimeout(() => {
    complete.reject(
      new TinderboxError(
        "TIMEOUT",
        `the client opened ${streams.size} of ${expected.size} streams in ${streamsTimeoutMs / 1000} s`,
      ),
    );
  }, streamsTimeoutMs);
  try {
    await Promise.race([
      complete.promise,
      connection.closed.then(() =>
        Promise.reject(new TinderboxError("ABORTED", "the client went away before its streams were there")),
      ),
    ]);
  } catch (thrown) {
    connection.destroy();
    throw thrown;
  } finally {
    clearTimeout(timer);
  }

  const sizes = new TerminalSizes();
  const pumpSizes = async (stream: SpdyStream): Promise<void> => {
    for await (const chunk of stream.input) sizes.push(chunk);
  };
  const resize = streams.get("resize");
  if (resize !== undefined) void pumpSizes(resize).catch(() => {});

  return {
    stdin: streams.get("stdin")?.input,
    write: async (channel, data) => streams.get(channel)?.write(data),
    onResize: (listener) => sizes.listen(listener),
    async finish(end: SessionEnd) {
      await streams.get("stdout")?.end();
      await streams.get("stderr")?.end();
      const error = streams.get("error");
      const text = protocol === "v4.channel.k8s.io" ? statusJson(end) : statusText(end);
      if (text !== "") await error?.write(Buffer.from(text));
      await error?.end();
      await connection.finish();
    },
    closed: connection.closed,
  };
}
