/** Bytes from a client on their way to one reader; says when it is full, so that the socket behind it is not read. */

const limitBytes = 256 << 10;

/** A queue for one writer and one reader. */
export class ByteQueue implements AsyncIterable<Uint8Array> {
  #chunks: Uint8Array[] = [];
  #size = 0;
  #end: { readonly error: Error | undefined } | undefined;
  #discards = false;
  #wakeReader: () => void = () => {};
  #wakeWriter: () => void = () => {};

  push(chunk: Uint8Array): void {
    if (this.#discards || this.#end !== undefined || chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    this.#wakeReader();
  }

  get isFull(): boolean {
    return this.#size >= limitBytes;
  }

  /** Resolves when there is room, or nobody will read any more. */
  async room(): Promise<void> {
    while (this.isFull) await new Promise<void>((resolve) => (this.#wakeWriter = resolve));
  }

  /** No more bytes come; what is queued is still read. An error reaches the reader after them. */
  end(error?: Error): void {
    this.#end ??= { error };
    this.#wakeReader();
  }

  /** Nobody reads any more: what is here and what comes is thrown away. */
  discard(): void {
    this.#discards = true;
    this.#take();
  }

  #take(): Uint8Array[] {
    const taken = this.#chunks;
    this.#chunks = [];
    this.#size = 0;
    this.#wakeWriter();
    return taken;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    try {
      for (;;) {
        if (this.#chunks.length > 0) yield* this.#take();
        else if (this.#end !== undefined) {
          if (this.#end.error !== undefined) throw this.#end.error;
          return;
        } else await new Promise<void>((resolve) => (this.#wakeReader = resolve));
      }
    } finally {
      this.discard();
    }
  }
}
