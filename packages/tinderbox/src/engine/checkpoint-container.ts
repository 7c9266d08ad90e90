/** CheckpointContainer: the processes and the changed files of a running container in one archive; it goes on running. */
import { randomBytes } from "node:crypto";
import { lstat, open, readFile, rename, rm, statfs, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { UndoStack } from "../base/undo.ts";
import { syncDirectory } from "../base/write-file.ts";
import { type CriuSupport, criuSupport } from "../native/criu-support.ts";
import type { ContainerFiles } from "../sandbox/contract.ts";
import { runCheckpoint } from "../sandbox/host/checkpoint-process.ts";
import { archiveFiles, mountsOf } from "./checkpoint-archive.ts";
import { checkpointDirectory, noteCheckpoint } from "./checkpoint-journal.ts";
import type { Container } from "./contract.ts";
import type { ContainerEntry, EngineState } from "./engine-state.ts";
import { usageOf } from "./usage.ts";

const underway = new WeakSet<ContainerEntry>();

/** Whether a handler's containers can be checkpointed, and why not. */
export async function checkpointSupport(state: EngineState, handler: string): Promise<CriuSupport> {
  const { factories, config } = state.parts;
  if (factories.get(handler)?.place !== "host")
    return { isSupported: false, code: "UNSUPPORTED", reason: "a guest has no CRIU" };
  if (config.enableCriuSupport === false)
    return { isSupported: false, code: "UNSUPPORTED", reason: "enable_criu_support is false" };
  const runtime = config.runtimes?.get(handler);
  return criuSupport(runtime?.type === "oci" ? runtime.path : handler);
}

/** The archive's place must be one that only its caller decides on: what is there is replaced, never followed. */
async function checkLocation(location: string): Promise<void> {
  const bad = (why: string): TinderboxError =>
    new TinderboxError("INVALID", `location: ${JSON.stringify(location)}: ${why}`);
  if (location.endsWith("/")) throw bad("the path of a file is expected");
  const directory = await lstat(`${dirname(location)}/.`).catch(() => undefined);
  if (!directory?.isDirectory()) throw bad("its directory must be there");
  const found = await lstat(location).catch((cause) => {
    if (errnoOf(cause) === "ENOENT") return undefined;
    throw bad(TinderboxError.from(cause).message);
  });
  if (found && !found.isFile()) throw bad("something that is no regular file is there");
}

/** Before anything stands still: what the processes' own memory and the changed files need at least. */
async function checkRoom(state: EngineState, entry: ContainerEntry, directories: readonly string[]) {
  const { memoryRssBytes, writableBytes, counters } = await usageOf(state, entry);
  const needed = memoryRssBytes + writableBytes + (counters["memory_swap"] ?? 0n);
  for (const directory of directories) {
    const { bavail, bsize } = await statfs(directory, { bigint: true });
    if (bavail * bsize < needed)
      throw new TinderboxError(
        "LIMIT",
        `container ${entry.stored.container.id}: its checkpoint needs at least ${needed} bytes; ${directory} has ${bavail * bsize}`,
      );
  }
}

/** The last bytes of a file, "" when there is none. */
async function tailOf(path: string, bytes: number): Promise<string> {
  const file = await open(path, "r").catch(() => undefined);
  if (file === undefined) return "";
  try {
    const from = Math.max(0, (await file.stat()).size - bytes);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(bytes), 0, bytes, from);
    return buffer.toString("utf8", 0, bytesRead);
  } finally {
    await file.close();
  }
}

/** CRIU's own words on a failure, the first of which is the reason; it gives up soon after. */
async function criuErrors(directory: string): Promise<string> {
  const log = await tailOf(join(directory, "dump.log"), 256 << 10);
  const lines = log.split("\n").flatMap((line) => /Error \([^)]*\): (.*)/.exec(line)?.[1] ?? []);
  // It raises its own limit if it may; that it may not is no failure.
  const reasons = lines.filter((line) => !line.startsWith("rlimit: "));
  return reasons.length === 0 ? "" : `: criu: ${reasons.slice(0, 4).join("; ").slice(0, 1200)}`;
}

type Asked = {
  readonly container: Container;
  readonly files: ContainerFiles;
  readonly location: string;
  readonly signal: AbortSignal;
};

async function writeArchive(state: EngineState, entry: ContainerEntry, asked: Asked): Promise<void> {
  const { container, files, location, signal } = asked;
  const { id, podId } = container;
  const directory = checkpointDirectory(state.parts.config.root, id);
  const temporary = join(dirname(location), `.tinderbox-checkpoint-${randomBytes(8).toString("hex")}`);
  await using undo = new UndoStack();
  undo.defer("remove the parts", () => rm(directory, { recursive: true, force: true }));
  undo.defer("remove the archive", () => rm(temporary, { force: true }));
  await rm(directory, { recursive: true, force: true });
  const journal = { containerId: id, files, temporary };
  await noteCheckpoint(directory, journal);
  await checkRoom(state, entry, [directory, dirname(location)]);
  // Our own agent's file: an object.
  const spec = JSON.parse(await readFile(join(files.bundle, "config.json"), "utf8")) as object;
  const { pod } = state.pod(podId).stored;
  for (const [name, value] of await archiveFiles(pod, container, spec))
    await writeFile(join(directory, name), JSON.stringify(value, undefined, 2), { mode: 0o600 });
  const archive = await open(temporary, "wx", 0o600);
  try {
    await runCheckpoint({
      containerId: id,
      files,
      mountPoints: mountsOf(spec).map(({ destination }) => destination),
      directory,
      output: archive.fd,
      onStart: (process) => noteCheckpoint(directory, { ...journal, process }),
      signal,
    }).catch(async (cause) => {
      const { code, message } = TinderboxError.from(cause, "RUNTIME");
      throw new TinderboxError(code, `${message}${await criuErrors(directory)}`, { cause });
    });
    await archive.sync();
  } finally {
    await archive.close();
  }
  await checkLocation(location);
  await rename(temporary, location);
  await syncDirectory(dirname(location));
}

/**
 * Writes the archive to `location`, an absolute path whose directory is there, or nothing at all.
 * @throws INVALID for another location, WRONG_STATE when it does not run or is being checkpointed, UNSUPPORTED or
 * TOOL_MISSING when its handler cannot, LIMIT for want of room, TIMEOUT
 */
export async function checkpointContainer(
  state: EngineState,
  entry: ContainerEntry,
  location: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  const { container } = entry.stored;
  const { id, podId, phase } = container;
  const { pod } = state.pod(podId).stored;
  const support = await checkpointSupport(state, pod.handler);
  if (!support.isSupported)
    throw new TinderboxError(
      support.code,
      `container ${id}: containers of the handler ${pod.handler} are not checkpointed: ${support.reason}`,
    );
  await checkLocation(location);
  if (phase.kind !== "running")
    throw new TinderboxError("WRONG_STATE", `container ${id} is ${phase.kind}; it must be running`);
  const files = state.sandboxOf(podId).containerFiles(id);
  if (files === undefined) throw new TinderboxError("UNSUPPORTED", `container ${id}: it is not on the host`);
  if (underway.has(entry))
    throw new TinderboxError("WRONG_STATE", `container ${id} is being checkpointed already`);
  underway.add(entry);
  const timeout = AbortSignal.timeout(timeoutMs);
  try {
    const either = AbortSignal.any([signal, timeout]);
    await writeArchive(state, entry, { container, files, location, signal: either });
  } catch (cause) {
    if (timeout.aborted)
      throw new TinderboxError("TIMEOUT", `container ${id}: no checkpoint after ${timeoutMs} ms`, { cause });
    const { code, message } = TinderboxError.from(cause);
    if (signal.aborted) throw new TinderboxError("ABORTED", `container ${id}: ${message}`, { cause });
    throw new TinderboxError(code, `container ${id}: ${message}`, { cause });
  } finally {
    underway.delete(entry);
  }
}
