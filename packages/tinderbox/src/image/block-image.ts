/** One read-only squashfs file of an image's layers, by Debian's sqfstar, which reads a tar and needs no root file system on disk. */
import { spawn } from "node:child_process";
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { syncDirectory } from "../base/write-file.ts";
import {
  defaultMergeLimits,
  type LayerFile,
  type Merged,
  type MergeLimits,
  mergeLayers,
} from "./layer-merge.ts";

/** Makes `output` (whole or absent) from `layers`, bottom first. @throws IMAGE_MALFORMED, IMAGE_DIGEST, TOOL_MISSING, TOOL_FAILED */
export async function makeBlockImage(
  layers: readonly LayerFile[],
  output: string,
  signal: AbortSignal,
  limits: MergeLimits = defaultMergeLimits,
): Promise<Merged & { sizeBytes: number }> {
  const temporary = `${output}.${process.pid}.tmp`;
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  try {
    const merge = await mergeLayers(layers, limits, signal);
    const { mode, uid, gid } = merge.root;
    const root = ["-root-mode", mode.toString(8), "-root-uid", String(uid), "-root-gid", String(gid)];
    // What follows the file's name would be names to leave out.
    const options = ["-comp", "lz4", "-no-progress", "-quiet", ...root, temporary];
    const tool = spawn("sqfstar", options, {
      // The root directory's time would be now: no time is later than the latest in the image.
      env: { ...process.env, SOURCE_DATE_EPOCH: String(merge.latestTime) },
      stdio: ["pipe", "ignore", "pipe"],
      signal: either,
    });
    let said = "";
    tool.stderr.on("data", (chunk: Buffer) => {
      said = (said + chunk.toString("utf8")).slice(-2000);
    });
    const ended = new Promise<void>((resolve, reject) => {
      tool.once("error", (cause) => {
        const missing = errnoOf(cause) === "ENOENT";
        reject(
          new TinderboxError(missing ? "TOOL_MISSING" : "TOOL_FAILED", `sqfstar: ${cause.message}`, {
            cause,
            hint: "apt-get install squashfs-tools",
          }),
        );
      });
      tool.once("close", (code) => {
        if (code === 0) resolve();
        else reject(new TinderboxError("TOOL_FAILED", `sqfstar: exit status ${code}: ${said.trim()}`));
      });
    });
    let result: Merged | undefined;
    const merged = async function* (): AsyncGenerator<Buffer> {
      result = yield* merge.tar();
    };
    const fed = pipeline(Readable.from(merged(), { objectMode: false }), tool.stdin).catch((cause) => {
      // sqfstar's own message says why it stopped reading.
      if (errnoOf(cause) !== "EPIPE" && errnoOf(cause) !== "ERR_STREAM_PREMATURE_CLOSE") throw cause;
    });
    let failure: unknown;
    const guard = (cause: unknown): void => {
      failure ??= cause;
      stop.abort();
    };
    await Promise.all([fed.catch(guard), ended.catch(guard)]);
    signal.throwIfAborted();
    if (failure !== undefined || !result) throw TinderboxError.from(failure);
    const file = await open(temporary, "r");
    let sizeBytes: number;
    try {
      await file.sync();
      sizeBytes = (await file.stat()).size;
    } finally {
      await file.close();
    }
    await rename(temporary, output);
    await syncDirectory(dirname(output));
    return { ...result, sizeBytes };
  } catch (cause) {
    await rm(temporary, { force: true });
    throw cause;
  }
}
