/**
 * Frames of the agent's protocol (proto/tinderbox/agent/v1/agent.proto):
 *
 *     0        4      5         6          8
 *     | length | kind | channel | reserved | payload
 *     | u32 BE | u8   | u8      | 0, 0     | length bytes, at most 1 MiB
 */
import { TinderboxError } from "../base/errors.ts";

export const frameKind = {
  hello: 1,
  request: 2,
  response: 3,
  event: 4,
  data: 5,
  eof: 6,
  resize: 7,
  exit: 8,
  ack: 9,
} as const;
export type FrameKind = (typeof frameKind)[keyof typeof frameKind];
export type Frame = { readonly kind: FrameKind; readonly channel: number; readonly payload: Uint8Array };

export const maxPayloadBytes = 1 << 20;
const headerBytes = 8;

/** One frame as bytes. @throws LIMIT when the payload is over 1 MiB */
export function encodeFrame(
  kind: FrameKind,
  channel: number,
  payload: Uint8Array = new Uint8Array(),
): Buffer {
  if (payload.length > maxPayloadBytes) {
    throw new TinderboxError(
      "LIMIT",
      `agent frame of ${payload.length} bytes; at most ${maxPayloadBytes} are allowed`,
    );
  }
  const frame = Buffer.allocUnsafe(headerBytes + payload.length);
  frame.writeUInt32BE(payload.length, 0);
  frame[4] = kind;
  frame[5] = channel;
  frame.writeUInt16BE(0, 6);
  frame.set(payload, headerBytes);
  return frame;
}

function isFrameKind(value: number): value is FrameKind {
  return value >= frameKind.hello && value <= frameKind.ack;
}

/** Cuts a byte stream into frames. Every byte is copied at most once; a payload inside one chunk is not copied. */
export class FrameDecoder {
  readonly #header = Buffer.alloc(headerBytes);
  #headerHave = 0;
  #payload: Buffer | undefined;
  #payloadHave = 0;

  /** The frames that `chunk` completes. @throws AGENT on a malformed one; the stream is then of no use */
  *push(chunk: Uint8Array): Generator<Frame> {
    let at = 0;
    for (;;) {
      if (this.#headerHave < headerBytes) {
        const take = Math.min(headerBytes - this.#headerHave, chunk.length - at);
        this.#header.set(chunk.subarray(at, at + take), this.#headerHave);
        this.#headerHave += take;
        at += take;
        if (this.#headerHave < headerBytes) return;
      }
      const length = this.#header.readUInt32BE(0);
      const kind = this.#header.readUInt8(4);
      const channel = this.#header.readUInt8(5);
      if (
        length > maxPayloadBytes ||
        !isFrameKind(kind) ||
        channel > 2 ||
        this.#header.readUInt16BE(6) !== 0
      ) {
        throw new TinderboxError(
          "AGENT",
          `malformed frame from the agent: length ${length}, kind ${kind}, channel ${channel}`,
        );
      }
      if (this.#payload === undefined && chunk.length - at >= length) {
        const payload = chunk.subarray(at, at + length);
        at += length;
        this.#headerHave = 0;
        yield { kind, channel, payload };
        continue;
      }
      this.#payload ??= Buffer.allocUnsafe(length);
      const take = Math.min(length - this.#payloadHave, chunk.length - at);
      this.#payload.set(chunk.subarray(at, at + take), this.#payloadHave);
      this.#payloadHave += take;
      at += take;
      if (this.#payloadHave < length) return;
      const payload = this.#payload;
      this.#payload = undefined;
      this.#payloadHave = 0;
      this.#headerHave = 0;
      yield { kind, channel, payload };
    }
  }

  /** Whether the stream may end here without having cut a frame. */
  get isBetweenFrames(): boolean {
    return this.#headerHave === 0;
  }
}
