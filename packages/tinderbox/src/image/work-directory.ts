/** A directory for one pull, gone after it. */
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";

function isDiskFull(cause: unknown): boolean {
  const errno = errnoOf(cause) ?? "";
  if (errno === "ENOSPC" || errno === "EDQUOT") return true;
  // sqfstar says it in words.
  if (!(cause instanceof Error)) return false;
  return /No space left on device|Disk quota exceeded/.test(cause.message) || isDiskFull(cause.cause);
}

/** Runs `use` with a new directory below `images`/ingest. @throws what `use` does, but LIMIT for a full disk */
export async function inWorkDirectory<T>(images: string, use: (directory: string) => Promise<T>): Promise<T> {
  let work: string | undefined;
  try {
    work = await mkdtemp(join(images, "ingest", "pull-"));
    return await use(work);
  } catch (cause) {
    if (isDiskFull(cause))
      throw new TinderboxError("LIMIT", `${images}: no space left on the device`, {
        cause,
        hint: "remove images that are not used: tinderbox rmi",
      });
    throw cause;
  } finally {
    if (work !== undefined) await rm(work, { recursive: true, force: true });
  }
}
