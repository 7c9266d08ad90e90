/** The client's side of SPDY/3.1 as Kubernetes' clients speak it, over a socket or a WebSocket: enough to open streams and to gather what comes. */
import assert from "node:assert/strict";
import { createHash, type Hash } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import WebSocket from "ws";
import {
  controlFrame,
  controlType,
  dataHead,
  SpdyFrameReader,
  uint32,
} from "../../packages/tinderbox/src/cri/streaming/spdy-frame-codec.ts";
import { HeaderWriter } from "../../packages/tinderbox/src/cri/streaming/spdy-header-block.ts";

/** What has come on a stream: the last of it as text, all of it as length and hash */
export type Received = { bytes: number; text: string; readonly hash: Hash; isOver: boolean };

const maxTextChars = 1 << 16;

/** Of a transport what is needed here */
type Transport = {
  write(bytes: Uint8Array): Promise<void>;
  pause(): void;
  resume(): void;
  destroy(): void;
  readonly closed: Promise<void>;
};

function socketTransport(socket: Socket, onData: (chunk: Buffer) => void): Transport {
  socket.on("data", onData);
  socket.on("error", () => {});
  return {
    write: (bytes) => new Promise((resolve) => void socket.write(bytes, () => resolve())),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    destroy: () => void socket.destroy(),
    closed: new Promise((resolve) => socket.once("close", () => resolve())),
  };
}

function tunnelTransport(socket: WebSocket, onData: (chunk: Buffer) => void): Transport {
  socket.on("message", onData);
  socket.on("error", () => {});
  return {
    write: (bytes) => new Promise((resolve) => socket.send(bytes, () => resolve())),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    destroy: () => socket.terminate(),
    closed: new Promise((resolve) => socket.once("close", () => resolve())),
  };
}

export class SpdyClient {
  readonly #received = new Map<number, Received>();
  readonly #reader = new SpdyFrameReader();
  readonly #headerWriter = new HeaderWriter();
  #waiting: (() => void)[] = [];
  #transport: Transport | undefined;

  private constructor() {}

  /** By a socket; `protocol` is one of those that the server may choose. */
  static async open(url: string, protocol: string): Promise<SpdyClient> {
    const { port, pathname } = new URL(url);
    const socket = connect(Number(port), "127.0.0.1");
    socket.write(
      `POST ${pathname} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n` +
        `X-Stream-Protocol-Version: v5.channel.k8s.io, ${protocol}\r\nContent-Length: 0\r\n\r\n`,
    );
    let head = Buffer.alloc(0);
    while (!head.includes("\r\n\r\n"))
      head = Buffer.concat([head, (await once(socket, "data"))[0] as Buffer]);
    const end = head.indexOf("\r\n\r\n");
    assert.match(
      head.toString("latin1", 0, end),
      new RegExp(`^HTTP/1.1 101 [^]*X-Stream-Protocol-Version: ${protocol}$`),
    );
    const client = new SpdyClient();
    client.#transport = socketTransport(socket, (chunk) => client.#take(chunk));
    client.#take(head.subarray(end + 4));
    return client;
  }

  /** By a WebSocket that carries SPDY, as port forwarding does. */
  static async tunnel(url: string): Promise<SpdyClient> {
    const socket = new WebSocket(url.replace(/^http/, "ws"), {
      perMessageDeflate: false,
      headers: { "Sec-WebSocket-Protocol": "SPDY/3.1+portforward.k8s.io" },
    });
    // A name with a slash is none that `ws` would ask for, or take.
    socket.on("upgrade", ({ headers }) => {
      assert.equal(headers["sec-websocket-protocol"], "SPDY/3.1+portforward.k8s.io");
      delete headers["sec-websocket-protocol"];
    });
    const client = new SpdyClient();
    client.#transport = tunnelTransport(socket, (chunk) => client.#take(chunk));
    await once(socket, "open");
    return client;
  }

  get #open(): Transport {
    assert.ok(this.#transport);
    return this.#transport;
  }

  get closed(): Promise<void> {
    return this.#open.closed;
  }

  #take(chunk: Buffer): void {
    for (const frame of this.#reader.push(chunk)) {
      if (frame.kind === "data") {
        const stream = this.received(frame.streamId);
        stream.bytes += frame.payload.length;
        stream.hash.update(frame.payload);
        if (stream.text.length < maxTextChars) stream.text += frame.payload.toString("latin1");
        stream.isOver ||= frame.fin;
      } else if (frame.type === controlType.rstStream)
        this.received(frame.payload.readUInt32BE(0)).isOver = true;
    }
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** What has come on a stream so far. */
  received(id: number): Received {
    const found = this.#received.get(id) ?? { bytes: 0, text: "", hash: createHash("sha256"), isOver: false };
    this.#received.set(id, found);
    return found;
  }

  /** Opens a stream; ids are odd and grow. */
  open(id: number, headers: Readonly<Record<string, string>>): void {
    const block = this.#headerWriter.write(new Map(Object.entries(headers)));
    void this.#open.write(
      controlFrame(controlType.synStream, 0, uint32(id), uint32(0), Buffer.alloc(2), block),
    );
  }

  /** Resolves when the socket has taken it. */
  async send(id: number, data: string | Uint8Array, fin = false): Promise<void> {
    const payload = Buffer.from(data);
    await this.#open.write(Buffer.concat([dataHead(id, payload.length, fin), payload]));
  }

  reset(id: number): void {
    void this.#open.write(controlFrame(controlType.rstStream, 0, uint32(id), uint32(5)));
  }

  /** The text of a stream once the server has ended it. */
  async end(id: number): Promise<string> {
    while (!this.received(id).isOver) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return this.received(id).text;
  }

  /** Stops reading: what comes stays in the socket. */
  pause(): void {
    this.#open.pause();
  }
  resume(): void {
    this.#open.resume();
  }
  destroy(): void {
    this.#open.destroy();
  }
}
