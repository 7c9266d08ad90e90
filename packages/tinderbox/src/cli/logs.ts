/** `tinderbox logs`: a container's log file, from its end backwards for `--tail`, and on as it grows for `--follow`. */
import { once } from "node:events";
import { watch } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { ContainerState } from "../rpc/gen/runtime/v1/api_pb.ts";
import { type CriClients, type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { findContainer } from "./find.ts";
import { LineSplitter, parseLogLine } from "./log-lines.ts";

export type LogsOptions = {
  readonly follow: boolean;
  readonly tail?: string;
  readonly timestamps: boolean;
};

const chunkBytes = 1 << 16;

/** Where the last `count` lines begin. */
async function offsetOfLast(file: FileHandle, size: number, count: number): Promise<number> {
  let left = count + 1;
  const buffer = Buffer.alloc(chunkBytes);
  for (let end = size; end > 0; ) {
    const start = Math.max(0, end - chunkBytes);
    const { bytesRead } = await file.read(buffer, 0, end - start, start);
    const part = buffer.subarray(0, bytesRead);
    for (let at = part.lastIndexOf(10); at >= 0; at = at === 0 ? -1 : part.lastIndexOf(10, at - 1)) {
      left -= 1;
      if (left === 0) return start + at + 1;
    }
    end = start;
  }
  return 0;
}

async function write(stream: "stdout" | "stderr", text: string): Promise<void> {
  const to = process[stream];
  if (!to.write(text)) await once(to, "drain");
}

/** Prints from `offset` to the end; the new offset. */
async function print(
  file: FileHandle,
  offset: number,
  splitter: LineSplitter,
  options: LogsOptions,
): Promise<number> {
  const buffer = Buffer.alloc(chunkBytes);
  let at = offset;
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, chunkBytes, at);
    if (bytesRead === 0) return at;
    at += bytesRead;
    for (const line of splitter.push(buffer.subarray(0, bytesRead))) {
      const entry = parseLogLine(line.toString("utf8"));
      if (entry === undefined) continue;
      await write(entry.stream, options.timestamps ? `${entry.time} ${entry.text}` : entry.text);
    }
  }
}

async function hasExited({ runtime }: CriClients, containerId: string): Promise<boolean> {
  const { status } = await runtime.callUnary("containerStatus", { containerId });
  return status?.state === ContainerState.CONTAINER_EXITED;
}

/** Resolves whenever the log's directory or the container changes, until `signal`. */
async function* changes(
  clients: CriClients,
  containerId: string,
  path: string,
  signal: AbortSignal,
): AsyncGenerator<void> {
  let wake = (): void => {};
  let pending = true;
  const note = (): void => {
    pending = true;
    wake();
  };
  const watcher = watch(dirname(path), { signal }, note);
  watcher.on("error", note);
  const follow = async (): Promise<void> => {
    for await (const event of clients.runtime.callStream("getContainerEvents", {}, { signal }))
      if (event.containerId === containerId) note();
  };
  // Without the daemon's events the file's own still come.
  follow().catch(() => {});
  signal.addEventListener("abort", note, { once: true });
  while (!signal.aborted) {
    if (!pending)
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    pending = false;
    yield;
  }
}

export async function logs(globals: GlobalOptions, container: string, options: LogsOptions): Promise<void> {
  const tail = options.tail;
  if (tail !== undefined && !/^\d{1,9}$/.test(tail))
    throw new TinderboxError("INVALID", `--tail ${tail}: it has to be a number of lines`);
  const stop = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(name, () => stop.abort());
  await withDaemon(globals, async (clients) => {
    const { id } = await findContainer(clients, container);
    const { status } = await clients.runtime.callUnary("containerStatus", { containerId: id });
    const path = status?.logPath ?? "";
    if (path === "") throw new TinderboxError("NOT_FOUND", `container ${container} was made without a log`);
    let file = await open(path, "r");
    try {
      const splitter = new LineSplitter();
      const { size } = await file.stat();
      let offset = tail === undefined ? 0 : await offsetOfLast(file, size, Number(tail));
      offset = await print(file, offset, splitter, options);
      if (!options.follow) return;
      for await (const _ of changes(clients, id, path, stop.signal)) {
        // Asked before the last look at the file: what was written before the end is printed.
        const isOver = await hasExited(clients, id).catch(() => true);
        offset = await print(file, offset, splitter, options);
        const now = await stat(path).catch(() => undefined);
        if (now !== undefined && now.ino !== (await file.stat()).ino) {
          // The log was rotated.
          await file.close();
          file = await open(path, "r");
          offset = await print(file, 0, splitter, options);
        }
        if (isOver) return stop.abort();
      }
    } finally {
      await file.close();
    }
  });
}
