/** A file written from a stream of strangers' bytes: never longer than promised, hashed as it is written. */
import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { TinderboxError } from "../base/errors.ts";
import type { Descriptor } from "./image-origin.ts";

/** `sha256:HEX` of some bytes, by the algorithm that `like` has. */
export function digestOf(bytes: Uint8Array, like = "sha256:"): string {
  const algorithm = like.split(":")[0] ?? "";
  return `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}`;
}

/** A blob that is being written. Can be started over when its source has to. */
export class BlobFile implements AsyncDisposable {
  readonly #descriptor: Descriptor;
  readonly #file: FileHandle;
  #hash: Hash;
  #size = 0;

  private constructor(descriptor: Descriptor, file: FileHandle) {
    this.#descriptor = descriptor;
    this.#file = file;
    this.#hash = createHash(this.#algorithm);
  }

  static async create(descriptor: Descriptor, path: string): Promise<BlobFile> {
    return new BlobFile(descriptor, await open(path, "wx", 0o600));
  }

  get #algorithm(): string {
    return this.#descriptor.digest.split(":")[0] ?? "";
  }

  get size(): number {
    return this.#size;
  }

  /** @throws IMAGE_DIGEST when it gets longer than its descriptor says */
  async append(chunk: Uint8Array): Promise<void> {
    const { digest, size } = this.#descriptor;
    if (this.#size + chunk.length > size)
      throw new TinderboxError("IMAGE_DIGEST", `blob ${digest} is longer than ${size} bytes`);
    this.#hash.update(chunk);
    for (let at = 0; at < chunk.length; ) {
      const { bytesWritten } = await this.#file.write(chunk, at, chunk.length - at, this.#size + at);
      at += bytesWritten;
    }
    this.#size += chunk.length;
  }

  /** Forgets what came so far. */
  async startOver(): Promise<void> {
    await this.#file.truncate(0);
    this.#hash = createHash(this.#algorithm);
    this.#size = 0;
  }

  /** @throws IMAGE_DIGEST */
  verify(): void {
    const { digest, size } = this.#descriptor;
    if (this.#size !== size)
      throw new TinderboxError("IMAGE_DIGEST", `blob ${digest} has ${this.#size} of ${size} bytes`);
    const actual = `${this.#algorithm}:${this.#hash.digest("hex")}`;
    if (actual !== digest)
      throw new TinderboxError("IMAGE_DIGEST", `blob ${digest} came with the digest ${actual}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}
