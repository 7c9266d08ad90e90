/** A FIFO that the VMM writes lines to. What nobody reads in time is dropped, oldest first; the VMM never waits. */
import { execFile } from "node:child_process";
import { closeSync, constants, openSync } from "node:fs";
import { rm } from "node:fs/promises";
import { Socket } from "node:net";
import { promisify } from "node:util";
import { FirecrackerLaunchError } from "./errors.ts";

const run = promisify(execFile);
const longestLine = 1 << 20;

/** Cuts bytes into lines; a line of more than `longest` bytes is left out. */
export class LineSplitter {
  #parts: Buffer[] = [];
  #size = 0;
  readonly #longest: number;
  /** Lines that were too long */
  skipped = 0;

  constructor(longest = longestLine) {
    this.#longest = longest;
  }

  /** The lines that are whole now, without their ends. */
  *push(chunk: Buffer): Generator<string> {
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      this.#add(chunk.subarray(from, end));
      if (this.#size > this.#longest) this.skipped += 1;
      else yield Buffer.concat(this.#parts).toString("utf8");
      this.#parts = [];
      this.#size = 0;
      from = end + 1;
    }
    this.#add(chunk.subarray(from));
  }

  #add(part: Buffer): void {
    this.#size += part.length;
    if (this.#size > this.#longest) this.#parts = [];
    else if (part.length > 0) this.#parts.push(part);
  }
}

/** Records that a VMM writes, one a line, until its end. One reader at a time. */
export class RecordStream<T> implements AsyncIterable<T>, AsyncDisposable {
  /** Host path of the FIFO */
  readonly path: string;
  readonly #socket: Socket;
  readonly #kept: T[] = [];
  readonly #waiting = new Set<{ take(record: T): void; end(): void }>();
  #isEnded = false;
  #dropped = 0;

  /** @internal */
  constructor(path: string, fd: number, parse: (line: string) => T | undefined, maxRecords: number) {
    this.path = path;
    this.#socket = new Socket({ fd, readable: true, writable: false });
    this.#socket.unref();
    const lines = new LineSplitter();
    this.#socket.on("data", (chunk) => {
      for (const line of lines.push(chunk)) {
        const record = parse(line);
        if (record === undefined) this.#dropped += 1;
        else this.#deliver(record, maxRecords);
      }
      this.#dropped += lines.skipped;
      lines.skipped = 0;
    });
    this.#socket.on("error", () => {});
    this.#socket.once("close", () => {
      this.#isEnded = true;
      for (const waiter of [...this.#waiting]) waiter.end();
    });
  }

  #deliver(record: T, maxRecords: number): void {
    const [waiter] = this.#waiting;
    if (waiter) {
      waiter.take(record);
      return;
    }
    this.#kept.push(record);
    if (this.#kept.length > maxRecords) {
      this.#kept.shift();
      this.#dropped += 1;
    }
  }

  /** Records lost because nobody read them in time, or they could not be read */
  get dropped(): number {
    return this.#dropped;
  }

  /** The next record, kept ones first; undefined once the VMM has ended. Rejects with the signal's reason. */
  next(options: { readonly signal?: AbortSignal } = {}): Promise<T | undefined> {
    const { signal } = options;
    const kept = this.#kept.shift();
    if (kept !== undefined) return Promise.resolve(kept);
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      if (this.#isEnded) return resolve(undefined);
      const settle = (act: () => void): void => {
        this.#waiting.delete(waiter);
        signal?.removeEventListener("abort", onAbort);
        if (this.#waiting.size === 0) this.#socket.unref();
        act();
      };
      const waiter = {
        take: (record: T): void => settle(() => resolve(record)),
        end: (): void => settle(() => resolve(undefined)),
      };
      const onAbort = (): void => settle(() => reject(signal?.reason));
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiting.add(waiter);
      this.#socket.ref();
    });
  }

  /** All records, until the VMM's end. */
  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (let record = await this.next(); record !== undefined; record = await this.next()) yield record;
  }

  /** Stops reading and removes the FIFO. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
    await rm(this.path, { force: true });
  }
}

/** Makes a FIFO (mode 0600) and reads it. @throws {FirecrackerLaunchError} FC_LAUNCH when the path exists */
export async function openRecordFifo<T>(
  path: string,
  parse: (line: string) => T | undefined,
  maxRecords: number,
): Promise<RecordStream<T>> {
  await run("mkfifo", ["--mode=600", "--", path]).catch((cause: Error) => {
    throw new FirecrackerLaunchError(`no FIFO at ${path}: ${cause.message}`, cause);
  });
  // Without a writer yet, a reading end must not block, and sees no end before there has been one.
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    return new RecordStream(path, fd, parse, maxRecords);
  } catch (cause) {
    closeSync(fd);
    throw cause;
  }
}
