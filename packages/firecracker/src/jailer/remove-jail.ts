/** Removes a jail by its record alone, so that it works as well after the program that made it was killed. */
import { chmod, chown, readdir, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { runHostCommand } from "../host-command.ts";
import { isVmmAlive, signalVmm, type VmmIdentity } from "../process-identity.ts";
import { cgroupProcesses, jailProcesses } from "./jail-processes.ts";
import { type JailRecord, readJailRecord, type TakenFile } from "./jail-record.ts";
import { FirecrackerJailerError } from "./jailer-error.ts";
import { mountedBelow } from "./mounted-below.ts";

const codeOf = (cause: unknown): string =>
  cause instanceof Error && "code" in cause ? String(cause.code) : "";

/** SIGKILL is not refused, only late: a process in the kernel's hands may take its time. The end of a process that is not our child is announced by nothing. */
const deathMs = 10_000;

async function end(processes: readonly VmmIdentity[]): Promise<void> {
  for (const process of processes) signalVmm(process, "SIGKILL");
  const deadline = performance.now() + deathMs;
  for (const process of processes) {
    while (isVmmAlive(process)) {
      if (performance.now() > deadline)
        throw new FirecrackerJailerError(
          undefined,
          `process ${process.pid} is still there ${deathMs} ms after SIGKILL`,
        );
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

async function giveBack(file: TakenFile): Promise<void> {
  try {
    const now = await stat(file.path, { bigint: true });
    if (String(now.dev) !== file.device || String(now.ino) !== file.inode) return;
    await chown(file.path, file.uid, file.gid);
    await chmod(file.path, file.mode);
  } catch (cause) {
    if (codeOf(cause) !== "ENOENT") throw cause;
  }
}

/** Removes an empty directory; false when there is still something in it. */
async function removeEmpty(directory: string): Promise<boolean> {
  try {
    await rmdir(directory);
  } catch (cause) {
    const code = codeOf(cause);
    if (code === "ENOTEMPTY" || code === "EBUSY" || code === "EEXIST") return false;
    if (code !== "ENOENT") throw cause;
  }
  return true;
}

async function removeCgroup(directory: string): Promise<void> {
  await end(cgroupProcesses(directory));
  const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
  for (const entry of entries) if (entry.isDirectory()) await removeCgroup(join(directory, entry.name));
  // A process counts as ended when its first thread is; its others hold the cgroup a little longer.
  const deadline = performance.now() + deathMs;
  while (!(await removeEmpty(directory))) {
    if (performance.now() > deadline)
      throw new FirecrackerJailerError(undefined, `the cgroup ${directory} is still in use`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/**
 * Ends what still runs in the jail, then removes its mounts, files, directories and cgroups, and gives files of the
 * host back to their owners. Fine when some or all of it is gone already.
 * @throws {FirecrackerJailerError} FC_JAILER when something cannot be removed; what could be, is
 */
export async function removeJail(record: JailRecord): Promise<void> {
  if (
    record.root !== join(record.directory, "root") ||
    !record.directory.endsWith(`/${record.execName}/${record.id}`)
  )
    throw new FirecrackerJailerError(
      "directory",
      `${record.directory} is not the directory of jail ${record.id}`,
    );
  const faults: unknown[] = [];
  const attempt = async (act: () => Promise<unknown>): Promise<void> => {
    try {
      await act();
    } catch (cause) {
      faults.push(cause);
    }
  };
  await attempt(async () => {
    // Until none is found: a jailer forks on its way.
    for (let found = await jailProcesses(record); found.length > 0; found = await jailProcesses(record))
      await end(found);
  });
  for (const point of await mountedBelow(record.directory))
    await attempt(() => runHostCommand("umount", ["-c", point]));
  for (const file of record.takenFiles) await attempt(() => giveBack(file));
  // Never through a mount: what is mounted there is the caller's.
  if ((await mountedBelow(record.directory)).length === 0) {
    await attempt(() => rm(record.directory, { recursive: true, force: true }));
    await attempt(() => removeEmpty(dirname(record.directory)));
  }
  for (const directory of record.cgroups) await attempt(() => removeCgroup(directory));
  for (const directory of record.cgroupParents) await attempt(() => removeEmpty(directory));
  if (faults.length > 0) {
    const texts = faults.map((fault) => (fault instanceof Error ? fault.message : String(fault)));
    throw new FirecrackerJailerError(
      undefined,
      `jail ${record.id} is not wholly removed: ${texts.join("; ")}`,
      new AggregateError(faults),
    );
  }
}

/**
 * Removes the jail in `directory` if it is the one with this token; another's is left alone, and so is a directory that
 * is no jail, unless it is empty (the crash came before its record).
 * @throws {FirecrackerJailerError} FC_JAILER as `removeJail`
 */
export async function removeJailAt(directory: string, token: string): Promise<void> {
  const record = await readJailRecord(directory);
  if (record?.token === token) await removeJail(record);
  else if (record === undefined && (await removeEmpty(directory))) await removeEmpty(dirname(directory));
}
