/** Makes a jail before the jailer runs, so that files can be staged in it; the jailer fills in the rest. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Jail, type KeepRecord } from "./jail.ts";
import { type JailRecord, writeJailRecord } from "./jail-record.ts";
import { FirecrackerJailerError } from "./jailer-error.ts";
import { removeJail } from "./remove-jail.ts";

const codeOf = (cause: unknown): string =>
  cause instanceof Error && "code" in cause ? String(cause.code) : "";

/** Another jail's removal may take an empty parent away between our making it and using it. */
const attempts = 10;

/** Makes `directory`, which must not exist; its parents may. */
async function makeNew(directory: string, what: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await mkdir(join(directory, ".."), { recursive: true });
      await mkdir(directory);
      return;
    } catch (cause) {
      if (codeOf(cause) === "EEXIST")
        throw new FirecrackerJailerError(
          "id",
          `${what} ${directory} exists already; a jail cannot be used twice`,
          cause,
        );
      if (codeOf(cause) !== "ENOENT" || attempt === attempts) throw cause;
    }
  }
}

/**
 * Makes the jail's directories and cgroups, none of which may exist.
 * @throws {FirecrackerJailerError} FC_JAILER naming `id` when one does; nothing is left then
 */
export async function makeJail(record: JailRecord, keepRecord: KeepRecord = writeJailRecord): Promise<Jail> {
  await makeNew(record.directory, "the jail directory");
  const made: string[] = [];
  try {
    await keepRecord(record);
    await mkdir(record.root);
    for (const cgroup of record.cgroups) {
      await makeNew(cgroup, "the cgroup");
      made.push(cgroup);
    }
  } catch (cause) {
    // Only what was made here: a cgroup that came in between is somebody else's.
    await removeJail({ ...record, cgroups: made }).catch(() => {});
    throw cause;
  }
  return new Jail(record, keepRecord);
}
