/**
 * Decodes the legacy LZ4 frame that Linux kernels are compressed with (`lz4 -l`): a magic number, then independent
 * blocks of at most 8 MiB content, each behind its compressed length (u32, little endian).
 * Format: https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md ("Legacy frame") and lz4_Block_format.md.
 */
import { TinderboxError } from "../base/errors.ts";

/** First four bytes of a legacy frame, as a little-endian number. */
export const legacyLz4Magic = 0x184c2102;

const maxBlockContent = 8 << 20;
const minMatch = 4;

function malformed(what: string, at: number): TinderboxError {
  return new TinderboxError("INVALID", `LZ4: ${what} at byte ${at}`);
}

/** Decodes one block, input[from, to), into `output` from `start` on; returns where its content ends. */
function decodeBlock(input: Uint8Array, from: number, to: number, output: Uint8Array, start: number): number {
  const limit = Math.min(output.length, start + maxBlockContent);
  let read = from;
  let write = start;
  // A length of 15 goes on in further bytes, up to and including the first below 255.
  const extend = (length: number): number => {
    let total = length;
    for (;;) {
      const byte = read < to ? input[read++] : undefined;
      if (byte === undefined) throw malformed("a length is cut off", read);
      total += byte;
      if (byte !== 255) return total;
    }
  };
  while (read < to) {
    const token = input[read++] ?? 0;
    let literals = token >> 4;
    if (literals === 15) literals = extend(literals);
    if (literals > to - read) throw malformed("literals are cut off", read);
    if (literals > limit - write) throw malformed("content longer than announced", read);
    output.set(input.subarray(read, read + literals), write);
    read += literals;
    write += literals;
    if (read === to) return write; // the last sequence has no match
    if (to - read < 2) throw malformed("an offset is cut off", read);
    const offset = (input[read] ?? 0) | ((input[read + 1] ?? 0) << 8);
    read += 2;
    let length = token & 15;
    if (length === 15) length = extend(length);
    length += minMatch;
    if (offset === 0 || offset > write - start) throw malformed(`offset ${offset} leaves the block`, read);
    if (length > limit - write) throw malformed("content longer than announced", read);
    if (offset >= length) {
      output.copyWithin(write, write - offset, write - offset + length);
      write += length;
    } else {
      // The match overlaps what it writes: bytes repeat.
      for (let end = write + length; write < end; write++) output[write] = output[write - offset] ?? 0;
    }
  }
  throw malformed("a block without its last literals", read);
}

/**
 * Decodes a legacy frame that holds exactly `contentBytes` bytes.
 *
 * @throws {TinderboxError} INVALID when the frame is malformed or holds more or less
 */
export function decodeLegacyLz4(frame: Uint8Array, contentBytes: number): Buffer {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (frame.length < 4 || view.getUint32(0, true) !== legacyLz4Magic) throw malformed("no legacy frame", 0);
  // One input byte stands for at most 255 bytes of content, so a lie about the size cannot ask for memory.
  if (contentBytes > frame.length * 255)
    throw malformed(`${contentBytes} bytes cannot come of ${frame.length}`, 0);
  const output = Buffer.alloc(contentBytes);
  let write = 0;
  let read = 4;
  while (read < frame.length) {
    if (frame.length - read < 4) throw malformed("a block length is cut off", read);
    const blockBytes = view.getUint32(read, true);
    read += 4;
    if (blockBytes === 0 || blockBytes > frame.length - read)
      throw malformed(`block of ${blockBytes} bytes is cut off`, read);
    write = decodeBlock(frame, read, read + blockBytes, output, write);
    read += blockBytes;
  }
  if (write !== contentBytes) throw malformed(`${write} bytes of content instead of ${contentBytes}`, read);
  return output;
}
