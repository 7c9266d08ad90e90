/**
 * The channels of an exec or attach in one WebSocket. The first byte of each message is the channel: 0 stdin, 1 stdout,
 * 2 stderr, 3 error, 4 resize; in v5 a message [255, n] closes channel n.
 */
import type { RawData, WebSocket } from "ws";
import { TinderboxError } from "../../base/errors.ts";
import { ByteQueue } from "./byte-queue.ts";
import { statusJson, statusText } from "./exit-status.ts";
import type { ClientChannels } from "./remote-command.ts";
import { stallProbeMs } from "./spdy-connection.ts";
import { TerminalSizes } from "./terminal-sizes.ts";

/** In the order of preference. */
export const webSocketCommandProtocols = [
  "v5.channel.k8s.io",
  "v4.channel.k8s.io",
  "channel.k8s.io",
] as const;

const channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;
const closeGraceMs = 5000;
const maxSliceBytes = 32 << 10;

function bytesOf(data: RawData): Buffer {
  if (Array.isArray(data)) return Buffer.concat(data);
  return data instanceof ArrayBuffer ? Buffer.from(data) : data;
}

/** The channels of a socket that is open. */
export function webSocketChannels(
  socket: WebSocket,
  wanted: { readonly stdin: boolean; readonly stdout: boolean; readonly stderr: boolean },
): ClientChannels {
  const stdin = new ByteQueue();
  const sizes = new TerminalSizes();
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  if (!wanted.stdin) stdin.discard();

  socket.on("message", (data) => {
    const message = bytesOf(data);
    const payload = message.subarray(1);
    if (message[0] === channel.stdin) {
      stdin.push(payload);
      if (!stdin.isFull) return;
      socket.pause();
      // A socket that is not read does not tell that the other side has gone; one that is written to does.
      const timer = setInterval(() => socket.ping(undefined, false, () => {}), stallProbeMs);
      void Promise.race([stdin.room(), closed]).then(() => {
        clearInterval(timer);
        socket.resume();
      });
    } else if (message[0] === channel.resize) sizes.push(payload);
    else if (
      message[0] === channel.close &&
      payload[0] === channel.stdin &&
      socket.protocol === "v5.channel.k8s.io"
    )
      stdin.end();
  });
  socket.on("error", () => {});
  void closed.then(() => {
    stdin.end(new TinderboxError("ABORTED", "the client is gone"));
  });

  const send = async (number: number, data: Uint8Array): Promise<void> => {
    await new Promise<void>((resolve, reject) => {
      socket.send(Buffer.concat([Buffer.of(number), data]), { binary: true }, (error) =>
        error ? reject(error) : resolve(),
      );
    });
  };

  return {
    stdin: wanted.stdin ? stdin : undefined,
    async write(name, data) {
      if (!wanted[name]) return;
      for (let at = 0; at < data.length; at += maxSliceBytes) {
        await send(channel[name], data.subarray(at, at + maxSliceBytes));
      }
    },
    onResize: (listener) => sizes.listen(listener),
    async finish(end) {
      const hasJson = socket.protocol === "v5.channel.k8s.io" || socket.protocol === "v4.channel.k8s.io";
      const text = hasJson ? statusJson(end) : statusText(end);
      if (text !== "") await send(channel.error, Buffer.from(text));
      stdin.discard();
      socket.resume();
      socket.close(1000);
      const timer = setTimeout(() => socket.terminate(), closeGraceMs);
      await closed;
      clearTimeout(timer);
    },
    closed,
  };
}
