/** A client of exec and attach, by SPDY or WebSocket, that may stop reading whenever a test wants. */
import { createHash, type Hash } from "node:crypto";
import { once } from "node:events";
import WebSocket from "ws";
import { SpdyClient } from "./spdy-client.ts";

export const transports = ["spdy", "websocket"] as const;
export type Transport = (typeof transports)[number];

export type CommandClient = {
  /** Standard output so far */
  readonly stdout: { readonly bytes: number; readonly text: string; readonly hash: Hash };
  /** The status text at the command's end; "" where the connection ended without one */
  readonly status: Promise<string>;
  /** Resolves when the socket has taken it */
  send(data: Uint8Array): Promise<void>;
  endStdin(): Promise<void>;
  /** Stops reading: what comes stays in the socket */
  pause(): void;
  resume(): void;
  /** Goes away without a word */
  destroy(): void;
};

const maxTextChars = 1 << 16;

async function bySpdy(url: string, stdin: boolean, isPaused: boolean): Promise<CommandClient> {
  const client = await SpdyClient.open(url, "v4.channel.k8s.io");
  if (isPaused) client.pause();
  client.open(1, { streamtype: "error" });
  client.open(3, { streamtype: "stdout" });
  if (stdin) client.open(5, { streamtype: "stdin" });
  return {
    stdout: client.received(3),
    status: Promise.race([client.end(1), client.closed.then(() => client.received(1).text)]),
    send: (data) => client.send(5, data),
    endStdin: () => client.send(5, "", true),
    pause: () => client.pause(),
    resume: () => client.resume(),
    destroy: () => client.destroy(),
  };
}

async function byWebSocket(url: string, isPaused: boolean): Promise<CommandClient> {
  const socket = new WebSocket(url.replace(/^http/, "ws"), ["v5.channel.k8s.io"], {
    perMessageDeflate: false,
  });
  const stdout = { bytes: 0, text: "", hash: createHash("sha256") };
  let status = "";
  socket.on("error", () => {});
  socket.on("message", (message: Buffer) => {
    const data = message.subarray(1);
    if (message[0] === 1) {
      stdout.bytes += data.length;
      stdout.hash.update(data);
      if (stdout.text.length < maxTextChars) stdout.text += data.toString("latin1");
    } else if (message[0] === 3) status += data.toString();
  });
  await once(socket, "open");
  if (isPaused) socket.pause();
  const send = (data: Uint8Array): Promise<void> =>
    new Promise((resolve) => socket.send(data, () => resolve()));
  return {
    stdout,
    status: new Promise((resolve) => socket.once("close", () => resolve(status))),
    send: (data) => send(Buffer.concat([Buffer.of(0), data])),
    endStdin: () => send(Buffer.of(255, 0)),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    destroy: () => socket.terminate(),
  };
}

/** Opens what Exec or Attach answered with, for stdout and maybe stdin; `isPaused`: without reading a byte of it. */
export function openCommand(
  transport: Transport,
  url: string,
  options: { readonly stdin: boolean; readonly isPaused?: boolean },
): Promise<CommandClient> {
  const { stdin, isPaused = false } = options;
  return transport === "spdy" ? bySpdy(url, stdin, isPaused) : byWebSocket(url, isPaused);
}
