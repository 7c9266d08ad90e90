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

const drainTimeoutMs = 5_000;

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
  /** Appends and reopens take turns here. */
  #turn: Promise<unknown> = Promise.resolve();
  #waiting: { readonly end: number; readonly resolve: () => void }[] = [];
  #stream: AgentStream | undefined;
  #isClosed = false;
  #isEnded = false;
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
    this.#file = await open(path, constants.O_WRONLY | constants.O_APPEND);
    this.#opened = opened;
    const { size } = await this.#file.stat();
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
    } catch (cause) {
      await file.close().catch(() => {});
      throw cause;
    }
  }

  /** Goes on in another (or a new) file at `path`, at a chunk's boundary. */
  reopen(path: string): Promise<void> {
    return this.#inTurn(() => this.#openFile(path));
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(act);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** Starts the flow: until the stream's end, `close`, or a failure that another connection does not mend. */
  run(
    openStream: (
      body: RequestBody,
    ) => Promise<{ readonly stream: AgentStream; readonly release: () => void }>,
  ): void {
    const flow = async (): Promise<void> => {
      while (!this.#isClosed && !this.#isEnded) {
        const { stream, release } = await openStream({
          case: "openLog",
          value: { containerId: this.#containerId, offset: BigInt(this.#offset) },
        });
        this.#stream = stream;
        const before = this.#offset;
        try {
          await this.#pump(stream);
        } finally {
          release();
        }
        if (!this.#isEnded && !this.#isClosed && this.#offset === before) {
          throw new TinderboxError(
            "AGENT",
            "the agent closed the log stream without an end and without a byte",
          );
        }
      }
    };
    flow()
      .catch((cause) => {
        if (!this.#isClosed)
          this.#log.warn("container log stopped", {
            container: this.#containerId,
            cause: TinderboxError.from(cause).message,
          });
      })
      .finally(() => {
        this.#isEnded = true;
        this.#settle();
      });
  }

  async #pump(stream: AgentStream): Promise<void> {
    for await (const frame of stream.frames()) {
      if (this.#isClosed) return;
      if (frame.kind === frameKind.data) {
        await this.#inTurn(async () => {
          for (let at = 0; at < frame.payload.length; ) {
            const { bytesWritten } = (await this.#file?.write(frame.payload, at)) ?? { bytesWritten: 0 };
            if (bytesWritten === 0)
              throw new TinderboxError("INTERNAL", `log of ${this.#containerId}: nothing could be written`);
            at += bytesWritten;
            this.#offset += bytesWritten;
          }
        });
        await stream.acknowledge(BigInt(this.#offset));
        this.#settle();
      } else if (frame.kind === frameKind.eof) {
        this.#isEnded = true;
        return;
      }
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
      await this.#file?.close();
      this.#file = undefined;
    });
  }

  async remove(): Promise<void> {
    await this.close();
    await rm(this.#recordPath, { force: true });
  }
}
