/**
 * SPDY/3.1 frames, as far as Kubernetes' streaming uses them. No header compression here.
 *
 *   control  |1| version 3 (15) | type (16) | flags (8) | length (24) | payload ...
 *   data     |0| stream id (31)             | flags (8) | length (24) | payload ...
 *
 * Source: SPDY Protocol Draft 3.1, section 2.2.
 */
import { TinderboxError } from "../../base/errors.ts";

export const controlType = {
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
} as const;

export const flagFin = 1;
export const rstStatus = { protocolError: 1, refused: 3, cancel: 5 } as const;

const headBytes = 8;
/** Header blocks of Kubernetes clients are below 1 KiB. */
const maxControlBytes = 32 << 10;

/** A data frame arrives in as many pieces as the socket had; only the last one can have `fin`. */
export type SpdyFrame =
  | { readonly kind: "control"; readonly type: number; readonly flags: number; readonly payload: Buffer }
  | { readonly kind: "data"; readonly streamId: number; readonly payload: Buffer; readonly fin: boolean };

type DataHead = { readonly streamId: number; readonly fin: boolean; left: number };

/** Cuts a byte stream into frames. */
export class SpdyFrameReader {
  #held: Buffer = Buffer.alloc(0);
  #data: DataHead | undefined;

  /** The frames (or pieces of data frames) that `chunk` completes. @throws INVALID on a frame that cannot be */
  *push(chunk: Buffer): Generator<SpdyFrame> {
    let bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    for (;;) {
      const data = this.#data;
      if (data !== undefined) {
        const payload = bytes.subarray(0, data.left);
        if (payload.length === 0 && data.left > 0) break;
        bytes = bytes.subarray(payload.length);
        data.left -= payload.length;
        if (data.left === 0) this.#data = undefined;
        yield { kind: "data", streamId: data.streamId, payload, fin: data.fin && data.left === 0 };
        continue;
      }
      if (bytes.length < headBytes) break;
      const first = bytes.readUInt32BE(0);
      const flags = bytes.readUInt8(4);
      const length = bytes.readUIntBE(5, 3);
      if (first < 0x8000_0000) {
        this.#data = { streamId: first, fin: (flags & flagFin) !== 0, left: length };
        bytes = bytes.subarray(headBytes);
        continue;
      }
      const version = (first >>> 16) & 0x7fff;
      if (version !== 3)
        throw new TinderboxError("INVALID", `SPDY version ${version}: only 3 is spoken here`);
      if (length > maxControlBytes)
        throw new TinderboxError(
          "INVALID",
          `SPDY control frame of ${length} bytes: at most ${maxControlBytes}`,
        );
      if (bytes.length < headBytes + length) break;
      const payload = bytes.subarray(headBytes, headBytes + length);
      bytes = bytes.subarray(headBytes + length);
      yield { kind: "control", type: first & 0xffff, flags, payload };
    }
    // A copy, so that a few held bytes do not keep a large chunk alive.
    this.#held = Buffer.from(bytes);
  }
}

/** The eight bytes before a data frame's payload. */
export function dataHead(streamId: number, length: number, fin: boolean): Buffer {
  const head = Buffer.alloc(headBytes);
  head.writeUInt32BE(streamId, 0);
  head.writeUInt8(fin ? flagFin : 0, 4);
  head.writeUIntBE(length, 5, 3);
  return head;
}

/** A whole control frame. */
export function controlFrame(type: number, flags: number, ...parts: readonly Uint8Array[]): Buffer {
  const head = Buffer.alloc(headBytes);
  head.writeUInt16BE(0x8003, 0);
  head.writeUInt16BE(type, 2);
  head.writeUInt8(flags, 4);
  head.writeUIntBE(
    parts.reduce((total, part) => total + part.length, 0),
    5,
    3,
  );
  return Buffer.concat([head, ...parts]);
}

/** A 32-bit number as bytes. */
export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
