/**
 * zstd as layers have it: any number of frames and skippable frames, one after the other (zstd:chunked has one for each
 * file, pzstd one for each thread). Node's decompressor ends with the first frame, so they are told apart here. RFC 8878:
 *
 *     frame      magic(4) descriptor(1) [window(1)] [dictionary(0-4)] [content size(0-8)] block... [checksum(4)]
 *     block      header(3: last 1 bit, type 2 bits, size 21 bits) content
 *     skippable  magic(4: 0x184D2A5?) size(4) content
 */
import { pipeline } from "node:stream/promises";
import { createZstdDecompress, zstdDecompressSync } from "node:zlib";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { ByteSource } from "./byte-source.ts";

export const frameMagic = 0xfd2fb528;
const maxBlockBytes = 128 << 10;
/** A frame up to this is unpacked in one call; a stream for each would cost more than its work. */
const smallFrameBytes = 64 << 10;
const smallContentBytes = 1 << 20;

export function isSkippableMagic(magic: number): boolean {
  return magic >>> 4 === 0x184d2a5;
}

function malformed(why: string): TinderboxError {
  return new TinderboxError("IMAGE_MALFORMED", `zstd: ${why}`);
}

const cut = "zstd: it ends inside a frame";

async function take(input: ByteSource, count: number): Promise<Buffer> {
  const taken = await input.exactly(count);
  if (taken === undefined) throw new TinderboxError("IMAGE_MALFORMED", cut);
  return taken;
}

/** A frame's bytes after its magic, a block at a time. */
async function* restOfFrame(input: ByteSource): AsyncGenerator<Buffer> {
  const descriptor = await take(input, 1);
  const bits = descriptor.readUInt8(0);
  const isSingle = (bits & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][bits & 3] ?? 0;
  const sizeBytes = [isSingle ? 1 : 0, 2, 4, 8][bits >> 6] ?? 0;
  yield descriptor;
  yield await take(input, (isSingle ? 0 : 1) + dictionaryBytes + sizeBytes);
  for (let isLast = false; !isLast; ) {
    const head = await take(input, 3);
    const value = head.readUIntLE(0, 3);
    isLast = (value & 1) === 1;
    const type = (value >> 1) & 3;
    // A run's size is that of its content, which is one byte here.
    const size = type === 1 ? 1 : value >> 3;
    if (type === 3 || size > maxBlockBytes) throw malformed("a block that cannot be");
    yield head;
    yield await take(input, size);
  }
  if ((bits & 4) !== 0) yield await take(input, 4);
}

/** The content of a small frame; undefined when it is not small. */
function unpackAtOnce(frame: Buffer): Buffer | undefined {
  try {
    return zstdDecompressSync(frame, { maxOutputLength: smallContentBytes });
  } catch (cause) {
    if (errnoOf(cause) === "ERR_BUFFER_TOO_LARGE") return undefined;
    throw cause;
  }
}

async function* unpackFrame(magic: Buffer, input: ByteSource): AsyncGenerator<Buffer> {
  const blocks = restOfFrame(input);
  const begun = [magic];
  let size = 0;
  let isWhole = false;
  while (size <= smallFrameBytes && !isWhole) {
    const next = await blocks.next();
    if (next.done === true) isWhole = true;
    else {
      begun.push(next.value);
      size += next.value.length;
    }
  }
  if (isWhole) {
    const content = unpackAtOnce(Buffer.concat(begun));
    if (content !== undefined) return void (yield content);
  }
  const unpack = createZstdDecompress();
  const flow = pipeline(async function* () {
    yield* begun;
    yield* blocks;
  }, unpack);
  // Whoever reads sees the same failure; this one must not be unhandled until it is waited for.
  flow.catch(() => {});
  try {
    for await (const chunk of unpack) yield chunk;
    await flow;
  } finally {
    unpack.destroy();
  }
}

/** The content of all frames. @throws IMAGE_MALFORMED, and zlib's own errors */
export async function* unpackZstd(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const input = new ByteSource(source, cut);
  for (let magic = await input.exactly(4); magic !== undefined; magic = await input.exactly(4)) {
    const value = magic.readUInt32LE(0);
    if (isSkippableMagic(value)) await input.skip((await take(input, 4)).readUInt32LE(0));
    else if (value === frameMagic) yield* unpackFrame(magic, input);
    else throw malformed("something that is no frame");
  }
}
