/**
 * Carries a microVM container's log from the agent's spool to its file. The file is the truth of how far it got:
 * a record beside the sandbox names the file by inode, the stream offset at which it begins and its size then, so
 * after a kill between append and acknowledgement nothing is lost and nothing doubled (decision 2).
 */
import { constants } from "node:fs";
import { type FileHandle, mkdir, open, readdir, readFile, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { writeFileAtomic } from "../base/write-file.ts";
import type { AgentStream, RequestBody } from "../rpc/agent-client.ts";
import { frameKind } from "../rpc/agent-frame-codec.ts";

type OpenedFile = {
  readonly path: string;
  readonly dev: number;
  readonly ino: number;
  readonly baseOffset: number;
  readonly fileStart: number;
};

type OpenStream = (
  body: RequestBody,
) => Promise<{ readonly stream: AgentStream; readonly release: () => void }>;

const drainTimeoutMs = 5_000;
const newline = 10;
/** Connections in a row that bring no byte */
const maxFailures = 3;

function parseOpened(text: string): OpenedFile {
  const value: unknown = JSON.parse(text);
  const isWhole =
    typeof value === "object" &&
    value !== null &&
    "path" in value &&
    typeof value.path === "string" &&
    (["dev", "ino", "baseOffset", "fileStart"] as const).every((key) =>
      Number.isSafeInteger(Reflect.get(value, key)),
    );
  if (!isWhole) throw new TinderboxError("INTERNAL", "a log record is malformed");
  return value as OpenedFile;
}

/** The file's inode where it is now: its own path, or another name in the same directory (rotated, not yet reopened). */
async function findInode(opened: OpenedFile): Promise<string | undefined> {
  const directory = dirname(opened.path);
  const names = await readdir(directory).catch(() => []);
  for (const path of [opened.path, ...names.map((name) => join(directory, name))]) {
    const found = await stat(path).catch(() => undefined);
    if (found?.isFile() && found.ino === opened.ino && found.dev === opened.dev) return path;
  }
  return undefined;
}

/** The log of one container. */
export class LogPump {
  readonly #recordPath: string;
  readonly #containerId: string;
  #file: FileHandle | undefined;
  #opened: OpenedFile | undefined;
  #offset = 0;
  /** The file ends with a whole line */
  #endsLine = true;
  /** Files to go on in, once the line that is half written is whole */
  #reopenings: { readonly path: string; readonly done: PromiseWithResolvers<void> }[] = [];
  /** Appends and reopens take turns here. */
  #turn: Promise<unknown> = Promise.resolve();
  #waiting: { readonly end: number; readonly resolve: () => void }[] = [];
  #stream: AgentStream | undefined;
  #isClosed = false;
  #isEnded = false;
  /** It ended before the stream did, and `reopen` may mend that */
  #hasFailed = false;
  #openStream: OpenStream | undefined;
  readonly #log: Logger;

  constructor(directory: string, containerId: string, log: Logger) {
    this.#recordPath = join(directory, `${containerId}.json`);
    this.#containerId = containerId;
    this.#log = log;
  }

  /** Begins a new container's log. */
  async begin(path: string): Promise<void> {
    await mkdir(dirname(this.#recordPath), { recursive: true });
    await this.#openFile(path);
  }

  /** After a daemon restart: goes on behind the last byte in the file. False: there is no record. */
  async resume(): Promise<boolean> {
    let opened: OpenedFile;
    try {
      opened = parseOpened(await readFile(this.#recordPath, "utf8"));
    } catch (cause) {
      if (errnoOf(cause) === "ENOENT") return false;
      throw cause;
    }
    const path = await findInode(opened);
    if (path === undefined) {
      // The file was deleted while nobody looked. What it held cannot be counted any more: all that is left goes to a new one.
      this.#offset = opened.baseOffset;
      await this.#openFile(opened.path);
      return true;
    }
    this.#file = await open(path, constants.O_RDWR | constants.O_APPEND);
    this.#opened = opened;
    const { size } = await this.#file.stat();
    this.#endsLine =
      size === 0 || (await this.#file.read(Buffer.alloc(1), 0, 1, size - 1)).buffer[0] === newline;
    this.#offset = opened.baseOffset + Math.max(0, size - opened.fileStart);
    return true;
  }

  async #openFile(path: string): Promise<void> {
    await mkdir(dirname(path), { recursive: true, mode: 0o755 });
    // Not through a symbolic link: the directory is the kubelet's, the name is ours.
    const file = await open(
      path,
      constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW,
      0o640,
    );
    try {
      const { dev, ino, size } = await file.stat();
      if (this.#opened?.ino === ino && this.#opened.dev === dev) return await file.close();
      const opened: OpenedFile = { path, dev, ino, baseOffset: this.#offset, fileStart: size };
      // Before the first append: until it is written, the old record and the old file's size are still true.
      await writeFileAtomic(this.#recordPath, JSON.stringify(opened));
      await this.#file?.close();
      this.#file = file;
      this.#opened = opened;
      this.#endsLine = true;
    } catch (cause) {
      await file.close().catch(() => {});
      throw cause;
    }
  }

  /** Goes on in another (or a new) file at `path`, with a whole line; also where writing to the one before has failed. */
  async reopen(path: string): Promise<void> {
    const done = Promise.withResolvers<void>();
    done.promise.catch(() => {});
    await this.#inTurn(async () => {
      this.#reopenings.push({ path, done });
      if (this.#endsLine || this.#isEnded || this.#isClosed) await this.#openAsked();
    });
    // The agent spools whole lines: what is missing of one is on its way, unless the guest hangs.
    const timer = setTimeout(() => void this.#inTurn(() => this.#openAsked()), drainTimeoutMs);
    await done.promise.finally(() => clearTimeout(timer));
    if (this.#hasFailed && !this.#isClosed && this.#openStream) {
      this.#isEnded = false;
      this.run(this.#openStream);
    }
  }

  async #openAsked(): Promise<void> {
    for (const { path, done } of this.#reopenings.splice(0))
      await this.#openFile(path).then(done.resolve, done.reject);
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(act);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** Starts the flow: until the stream's end, `close`, or a failure that another connection does not mend. */
  run(openStream: OpenStream): void {
    this.#openStream = openStream;
    this.#hasFailed = false;
    let failures = 0;
    const flow = async (): Promise<void> => {
      while (!this.#isClosed && !this.#isEnded) {
        const { stream, release } = await openStream({
          case: "openLog",
          value: { containerId: this.#containerId, offset: BigInt(this.#offset) },
        });
        this.#stream = stream;
        const before = this.#offset;
        let failure: unknown;
        try {
          await this.#pump(stream);
        } catch (cause) {
          failure = cause;
        } finally {
          release();
        }
        // A stream that broke, maybe within a frame: what it did not bring is still in the spool.
        failures = this.#offset === before ? failures + 1 : 0;
        if (this.#isEnded || this.#isClosed || failures < maxFailures) continue;
        throw (
          failure ??
          new TinderboxError("AGENT", "the agent closes the log stream without an end and without a byte")
        );
      }
    };
    flow()
      .catch((cause) => {
        this.#hasFailed = true;
        if (!this.#isClosed)
          this.#log.warn("container log stopped", {
            container: this.#containerId,
            cause: TinderboxError.from(cause).message,
          });
      })
      .finally(() => {
        this.#isEnded = true;
        this.#settle();
        void this.#inTurn(() => this.#openAsked());
      });
  }

  async #pump(stream: AgentStream): Promise<void> {
    for await (const frame of stream.frames()) {
      if (this.#isClosed) return;
      if (frame.kind === frameKind.data) {
        await this.#inTurn(async () => {
          const rest = frame.payload.indexOf(newline) + 1;
          if (this.#reopenings.length === 0 || rest === 0) return this.#append(frame.payload);
          await this.#append(frame.payload.subarray(0, rest));
          await this.#openAsked();
          await this.#append(frame.payload.subarray(rest));
        });
        await stream.acknowledge(BigInt(this.#offset));
        this.#settle();
      } else if (frame.kind === frameKind.eof) {
        this.#isEnded = true;
        return;
      }
    }
  }

  async #append(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = (await this.#file?.write(bytes, at)) ?? { bytesWritten: 0 };
      if (bytesWritten === 0)
        throw new TinderboxError("INTERNAL", `log of ${this.#containerId}: nothing could be written`);
      at += bytesWritten;
      this.#offset += bytesWritten;
      this.#endsLine = bytes[at - 1] === newline;
    }
  }

  #settle(): void {
    const isOver = this.#isEnded || this.#isClosed;
    this.#waiting = this.#waiting.filter(({ end, resolve }) => {
      if (!isOver && this.#offset < end) return true;
      resolve();
      return false;
    });
  }

  /** Resolves when every byte below `end` is in the file, the flow is over, or 5 s have passed. */
  async drained(end: number): Promise<void> {
    if (this.#offset >= end || this.#isEnded || this.#isClosed) return;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      timer = setTimeout(resolve, drainTimeoutMs);
      this.#waiting.push({ end, resolve });
    });
    clearTimeout(timer);
  }

  /** Lets go; the record stays for `resume`. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#stream?.close();
    this.#settle();
    await this.#inTurn(async () => {
      await this.#openAsked();
      await this.#file?.close();
      this.#file = undefined;
    });
  }

  async remove(): Promise<void> {
    await this.close();
    await rm(this.#recordPath, { force: true });
  }
}
