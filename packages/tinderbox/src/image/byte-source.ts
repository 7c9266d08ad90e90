/** A stream of chunks, asked for bytes by their number. */
import { TinderboxError } from "../base/errors.ts";

/** Not for two readers at a time. */
export class ByteSource {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #cut: string;
  #rest: Buffer = Buffer.alloc(0);

  /** `cut` is what is said of a stream that ends too early */
  constructor(source: AsyncIterable<Uint8Array>, cut: string) {
    this.#cut = cut;
    this.#chunks = source[Symbol.asyncIterator]();
  }

  /** 1 to `max` bytes as they come; undefined at the end. */
  async some(max: number): Promise<Buffer | undefined> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#chunks.next();
      if (done) return undefined;
      this.#rest = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    }
    const part = this.#rest.subarray(0, max);
    this.#rest = this.#rest.subarray(part.length);
    return part;
  }

  /** `size` bytes, or undefined when the stream ends right here. @throws IMAGE_MALFORMED when it ends on the way */
  async exactly(size: number): Promise<Buffer | undefined> {
    if (this.#rest.length >= size) {
      const part = this.#rest.subarray(0, size);
      this.#rest = this.#rest.subarray(size);
      return part;
    }
    const parts: Buffer[] = [];
    let have = 0;
    while (have < size) {
      const part = await this.some(size - have);
      if (part === undefined) {
        if (have === 0) return undefined;
        throw new TinderboxError("IMAGE_MALFORMED", this.#cut);
      }
      parts.push(part);
      have += part.length;
    }
    return Buffer.concat(parts);
  }

  /** Passes over `size` bytes, or what is left of them: some writers leave the last padding out. */
  async skip(size: number): Promise<void> {
    for (let left = size; left > 0; ) {
      const part = await this.some(left);
      if (part === undefined) return;
      left -= part.length;
    }
  }
}
