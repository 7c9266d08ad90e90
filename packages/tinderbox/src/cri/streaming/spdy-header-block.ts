/**
 * SPDY/3 header blocks: 32-bit count, then name and value, each with a 32-bit length; all blocks of a direction are
 * one zlib stream with a preset dictionary. We send stored (uncompressed) deflate blocks: our headers are a few bytes,
 * and writing them needs no zlib state. What we receive is inflated by node:zlib.
 */
import { createInflate, type Inflate } from "node:zlib";
import { TinderboxError } from "../../base/errors.ts";
import { spdyDictionary } from "./spdy-dictionary.ts";
import { uint32 } from "./spdy-frame-codec.ts";

const maxBlockBytes = 64 << 10;
const maxHeaders = 64;

export type SpdyHeaders = ReadonlyMap<string, string>;

function malformed(why: string): TinderboxError {
  return new TinderboxError("INVALID", `SPDY header block: ${why}`);
}

/** The plain form of a block. */
export function encodeHeaders(headers: SpdyHeaders): Buffer {
  const parts: Buffer[] = [uint32(headers.size)];
  for (const pair of headers) {
    for (const text of pair) {
      const bytes = Buffer.from(text, "utf8");
      parts.push(uint32(bytes.length), bytes);
    }
  }
  return Buffer.concat(parts);
}

/** The inverse of `encodeHeaders`; names in lower case. @throws INVALID */
export function decodeHeaders(block: Buffer): SpdyHeaders {
  let at = 0;
  const number = (): number => {
    if (at + 4 > block.length) throw malformed("cut off");
    at += 4;
    return block.readUInt32BE(at - 4);
  };
  const text = (): string => {
    const length = number();
    if (length > block.length - at)
      throw malformed(`a length of ${length} with ${block.length - at} bytes left`);
    at += length;
    return block.toString("utf8", at - length, at);
  };
  const count = number();
  if (count > maxHeaders) throw malformed(`${count} headers, at most ${maxHeaders}`);
  const headers = new Map<string, string>();
  for (let n = 0; n < count; n++) headers.set(text().toLowerCase(), text());
  if (at !== block.length) throw malformed(`${block.length - at} bytes too many`);
  return headers;
}

function adler32(bytes: Uint8Array): number {
  let a = 1;
  let b = 0;
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return b * 65536 + a;
}

/** CMF, FLG with FDICT, and the dictionary's checksum (RFC 1950). */
const zlibHead = Buffer.concat([Buffer.from([0x78, 0x20]), uint32(adler32(spdyDictionary))]);
/** Readers hand out what they have at an empty stored block: what Z_SYNC_FLUSH ends with. */
const flushMark = Buffer.from([0, 0, 0, 0xff, 0xff]);

/** Writes the blocks of one direction of a connection. */
export class HeaderWriter {
  #begun = false;

  write(headers: SpdyHeaders): Buffer {
    const plain = encodeHeaders(headers);
    if (plain.length > 0xffff) throw malformed(`${plain.length} bytes, at most ${0xffff}`);
    const stored = Buffer.alloc(5);
    stored.writeUInt16LE(plain.length, 1);
    stored.writeUInt16LE(plain.length ^ 0xffff, 3);
    const parts = [stored, plain, flushMark];
    if (!this.#begun) parts.unshift(zlibHead);
    this.#begun = true;
    return Buffer.concat(parts);
  }
}

/** Reads the blocks of one direction of a connection; every block of it must pass here, in order. */
export class HeaderReader {
  readonly #inflate: Inflate = createInflate({ dictionary: spdyDictionary });
  #out: Buffer[] = [];
  #size = 0;
  #failure: Error | undefined;
  #fail: (error: Error) => void = () => {};

  constructor() {
    this.#inflate.on("data", (chunk: Buffer) => {
      this.#out.push(chunk);
      this.#size += chunk.length;
      if (this.#size > maxBlockBytes) this.#inflate.destroy(malformed(`more than ${maxBlockBytes} bytes`));
    });
    this.#inflate.on("error", (error) => {
      this.#failure = error instanceof TinderboxError ? error : malformed(error.message);
      this.#fail(this.#failure);
    });
  }

  /** One call at a time. @throws INVALID */
  async read(block: Buffer): Promise<SpdyHeaders> {
    if (this.#failure !== undefined) throw this.#failure;
    await new Promise<void>((resolve, reject) => {
      this.#fail = reject;
      this.#inflate.write(block, (error) => (error ? reject(error) : this.#inflate.flush(() => resolve())));
    });
    const plain = Buffer.concat(this.#out);
    this.#out = [];
    this.#size = 0;
    return decodeHeaders(plain);
  }

  close(): void {
    this.#inflate.destroy();
  }
}
