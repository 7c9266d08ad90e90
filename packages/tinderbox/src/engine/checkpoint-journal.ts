/** Checkpoints under way, written down before anything is made, so that a daemon killed in one leaves nothing of it. */
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { ProcessIdentity } from "../base/process-identity.ts";
import { writeFileAtomic } from "../base/write-file.ts";
import type { ContainerFiles } from "../sandbox/contract.ts";
import { endCheckpoint } from "../sandbox/host/checkpoint-process.ts";

type Entry = {
  readonly containerId: string;
  readonly files: ContainerFiles;
  /** The archive until it is whole */
  readonly temporary: string;
  readonly process?: ProcessIdentity;
};

// Hidden: every other name in the directory becomes a part of the archive.
const journalName = ".journal.json";

/** Below the daemon's root directory. */
export function checkpointDirectory(root: string, containerId = ""): string {
  return join(root, "checkpoints", containerId);
}

/** Makes the directory of a checkpoint with its entry, or says more in that. */
export async function noteCheckpoint(directory: string, entry: Entry): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await writeFileAtomic(join(directory, journalName), JSON.stringify(entry));
}

async function undo(directory: string): Promise<void> {
  const text = await readFile(join(directory, journalName), "utf8").catch(() => "");
  if (text !== "") {
    // Written whole, by this file, in a directory that is ours alone.
    const entry = JSON.parse(text) as Entry;
    await endCheckpoint(entry.files, entry.containerId, entry.process);
    await rm(entry.temporary, { force: true });
  }
  await rm(directory, { recursive: true, force: true });
}

/** Undoes what an earlier daemon had begun; its containers go on. */
export async function recoverCheckpoints(root: string, logger: Logger): Promise<void> {
  for (const name of await readdir(checkpointDirectory(root)).catch(() => []))
    await undo(checkpointDirectory(root, name)).catch((cause) =>
      logger.error("undoing a checkpoint", { container: name, cause: TinderboxError.from(cause).message }),
    );
}
