/**
 * The server's side of a SPDY/3.1 connection with a Go client, which knows no flow control but TCP's: when the queue of
 * one stream is full, the socket is not read until it has room. Frames are handled strictly one after the other.
 */
import type { Duplex } from "node:stream";
import { TinderboxError } from "../../base/errors.ts";
import { ByteQueue } from "./byte-queue.ts";
import {
  controlFrame,
  controlType,
  dataHead,
  flagFin,
  rstStatus,
  type SpdyFrame,
  SpdyFrameReader,
  uint32,
} from "./spdy-frame-codec.ts";
import { HeaderReader, HeaderWriter, type SpdyHeaders } from "./spdy-header-block.ts";

const maxStreams = 256;
const maxDataBytes = 32 << 10;
/** How long the client may take to close after the last frame. */
const closeGraceMs = 5000;
/** How often a client is pinged whose bytes nobody takes. */
export const stallProbeMs = 5000;

/** A stream that the client opened. */
export class SpdyStream {
  readonly id: number;
  readonly headers: SpdyHeaders;
  /** What the client sends */
  readonly input: ByteQueue = new ByteQueue();
  readonly #connection: SpdyConnection;
  #ended = false;

  constructor(id: number, headers: SpdyHeaders, connection: SpdyConnection) {
    this.id = id;
    this.headers = headers;
    this.#connection = connection;
  }

  /** Resolves when the socket has taken the bytes. */
  async write(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length && !this.#ended; at += maxDataBytes) {
      const part = data.subarray(at, at + maxDataBytes);
      await this.#connection.send(dataHead(this.id, part.length, false), part);
    }
  }

  /** Our half is over. */
  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.#connection.send(dataHead(this.id, 0, true));
  }

  /** The client wants to hear no more, and says no more. */
  wasReset(): void {
    this.#ended = true;
    this.input.end(new TinderboxError("ABORTED", "the client reset the stream"));
  }

  /** Both halves are over. */
  async reset(status: number = rstStatus.cancel): Promise<void> {
    this.#ended = true;
    this.#connection.forget(this.id);
    await this.#connection.send(controlFrame(controlType.rstStream, 0, uint32(this.id), uint32(status)));
  }
}

/** Reads frames from `transport` until it ends; `onStream` gets each new stream and may refuse it by `false`. */
export class SpdyConnection {
  readonly #transport: Duplex;
  readonly #onStream: (stream: SpdyStream) => boolean;
  readonly #frames = new SpdyFrameReader();
  readonly #headerReader = new HeaderReader();
  readonly #headerWriter = new HeaderWriter();
  readonly #streams = new Map<number, SpdyStream>();
  #lastId = 0;
  /** The server's are even */
  #pingId = 0;
  /** Resolves when the connection is over, for whatever reason. */
  readonly closed: Promise<void>;

  constructor(transport: Duplex, onStream: (stream: SpdyStream) => boolean, gone?: Promise<void>) {
    this.#transport = transport;
    this.#onStream = onStream;
    this.closed = new Promise((resolve) => {
      transport.once("close", () => resolve());
      void gone?.then(resolve);
    });
    transport.on("error", () => {});
    transport.once("close", () => this.#endStreams());
  }

  /** Handles what comes; `head` are bytes read already. Returns at the end, throws nothing. */
  async run(head: Buffer): Promise<void> {
    try {
      await this.#take(head);
      for await (const chunk of this.#transport) await this.#take(chunk as Buffer);
    } catch {
      // A broken frame or socket: the streams learn of it below.
    } finally {
      this.#transport.destroy();
      this.#headerReader.close();
    }
  }

  /** After the last frame: ends our half, and waits a little for the client, so that its last bytes cause no reset. */
  async finish(): Promise<void> {
    this.#transport.end();
    for (const stream of this.#streams.values()) stream.input.discard();
    const timer = setTimeout(() => this.#transport.destroy(), closeGraceMs);
    await this.closed;
    clearTimeout(timer);
  }

  destroy(): void {
    this.#transport.destroy();
  }

  /** Writes frames; resolves when the socket has taken them. */
  async send(...parts: readonly Uint8Array[]): Promise<void> {
    const transport = this.#transport;
    await new Promise<void>((resolve, reject) => {
      transport.cork();
      parts.forEach((part, n) => {
        transport.write(
          part,
          n === parts.length - 1 ? (error) => (error ? reject(error) : resolve()) : undefined,
        );
      });
      transport.uncork();
    });
  }

  forget(id: number): void {
    this.#streams.get(id)?.input.discard();
    this.#streams.delete(id);
  }

  #endStreams(): void {
    for (const { input } of this.#streams.values()) {
      input.end(new TinderboxError("ABORTED", "the client is gone"));
    }
    this.#streams.clear();
  }

  async #take(chunk: Buffer): Promise<void> {
    for (const frame of this.#frames.push(chunk)) await this.#handle(frame);
  }

  async #handle(frame: SpdyFrame): Promise<void> {
    if (frame.kind === "data") {
      const stream = this.#streams.get(frame.streamId);
      if (stream === undefined) return;
      stream.input.push(frame.payload);
      if (frame.fin) stream.input.end();
      if (stream.input.isFull) await this.#waitForRoom(stream);
      return;
    }
    const { type, payload } = frame;
    if (type === controlType.synStream) await this.#open(payload, frame.flags);
    else if (type === controlType.rstStream && payload.length >= 4) {
      const id = payload.readUInt32BE(0) & 0x7fff_ffff;
      this.#streams.get(id)?.wasReset();
      this.#streams.delete(id);
    } else if (type === controlType.ping && payload.length === 4) {
      // Odd ids are the client's; an even one would be the answer to a ping of ours.
      if (payload.readUInt32BE(0) % 2 === 1) await this.send(controlFrame(controlType.ping, 0, payload));
    } else if (type === controlType.headers && payload.length >= 4) {
      // Nobody needs them, but the decompressor must see every block.
      await this.#headerReader.read(payload.subarray(4));
    } else if (type === controlType.synReply) {
      throw new TinderboxError("INVALID", "SPDY: a reply to a stream that was never opened");
    }
    // SETTINGS, WINDOW_UPDATE and GOAWAY change nothing here.
  }

  /** A socket that is not read does not tell that the other side has gone; one that is written to does. */
  async #waitForRoom(stream: SpdyStream): Promise<void> {
    const probe = (): void => {
      this.#pingId += 2;
      this.send(controlFrame(controlType.ping, 0, uint32(this.#pingId))).catch(() => {});
    };
    const timer = setInterval(probe, stallProbeMs);
    await Promise.race([stream.input.room(), this.closed]);
    clearInterval(timer);
  }

  async #open(payload: Buffer, flags: number): Promise<void> {
    if (payload.length < 10) throw new TinderboxError("INVALID", "SPDY: SYN_STREAM is cut off");
    const id = payload.readUInt32BE(0) & 0x7fff_ffff;
    const headers = await this.#headerReader.read(payload.subarray(10));
    if (id % 2 === 0 || id <= this.#lastId)
      throw new TinderboxError("INVALID", `SPDY: stream id ${id} after ${this.#lastId}`);
    this.#lastId = id;
    const stream = new SpdyStream(id, headers, this);
    if (this.#streams.size >= maxStreams) return stream.reset(rstStatus.refused);
    this.#streams.set(id, stream);
    if ((flags & flagFin) !== 0) stream.input.end();
    // The client waits for the reply before it uses the stream; it must come before anything we write on it.
    await this.send(controlFrame(controlType.synReply, 0, uint32(id), this.#headerWriter.write(new Map())));
    if (!this.#onStream(stream)) await stream.reset(rstStatus.protocolError);
  }
}
