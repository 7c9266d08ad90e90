/** One output of a VMM, always drained: a VMM that cannot write stands still. What nobody reads in time is dropped, oldest first. */
import { Readable } from "node:stream";

/** A reader of an output; never makes the VMM wait. */
export class OutputStream extends Readable {
  #queue: Buffer[] = [];
  #queuedBytes = 0;
  #droppedBytes = 0;
  #wanted = false;
  #ended = false;
  readonly #limit: number;
  readonly #release: () => void;

  /** @internal */
  constructor(limit: number, release: (stream: OutputStream) => void) {
    super();
    this.#limit = limit;
    this.#release = () => release(this);
  }

  /** Bytes lost because they were not read in time */
  get droppedBytes(): number {
    return this.#droppedBytes;
  }

  /** @internal */
  feed(chunk: Buffer): void {
    if (this.#wanted && this.#queue.length === 0) {
      this.#wanted = this.push(chunk);
      return;
    }
    this.#queue.push(chunk);
    this.#queuedBytes += chunk.length;
    while (this.#queuedBytes > this.#limit) {
      const [oldest] = this.#queue;
      if (oldest === undefined) break;
      const excess = Math.min(oldest.length, this.#queuedBytes - this.#limit);
      if (excess === oldest.length) this.#queue.shift();
      else this.#queue[0] = oldest.subarray(excess);
      this.#queuedBytes -= excess;
      this.#droppedBytes += excess;
    }
  }

  /** @internal */
  finish(): void {
    this.#ended = true;
    if (this.#wanted && this.#queue.length === 0) this.push(null);
  }

  /** @internal */
  override _read(): void {
    this.#wanted = true;
    while (this.#wanted) {
      const chunk = this.#queue.shift();
      if (chunk === undefined) break;
      this.#queuedBytes -= chunk.length;
      this.#wanted = this.push(chunk);
    }
    if (this.#wanted && this.#ended) this.push(null);
  }

  /** @internal */
  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#release();
    this.#queue = [];
    callback(error);
  }
}

/** What a VMM writes to its stdout or stderr. */
export class OutputLog {
  readonly #kept: number;
  #tail: Buffer = Buffer.alloc(0);
  #ended = false;
  readonly #readers = new Set<OutputStream>();

  /** Keeps the last `keptBytes`. */
  constructor(keptBytes = 65_536) {
    this.#kept = keptBytes;
  }

  /** @internal */
  push(chunk: Buffer): void {
    const joined = chunk.length >= this.#kept ? chunk : Buffer.concat([this.#tail, chunk]);
    this.#tail = joined.subarray(-this.#kept);
    for (const reader of this.#readers) reader.feed(chunk);
  }

  /** @internal */
  finish(): void {
    this.#ended = true;
    for (const reader of this.#readers) reader.finish();
  }

  /** The last of it, as text */
  tail(bytes = 8_192): string {
    return this.#tail.subarray(-bytes).toString("utf8");
  }

  /** A new reader: what is still kept, then all that follows; holds at most `maxBytes` unread. */
  stream(maxBytes = 1 << 20): OutputStream {
    const reader = new OutputStream(maxBytes, (stream) => this.#readers.delete(stream));
    if (this.#tail.length > 0) reader.feed(this.#tail);
    if (this.#ended) reader.finish();
    else this.#readers.add(reader);
    return reader;
  }
}
