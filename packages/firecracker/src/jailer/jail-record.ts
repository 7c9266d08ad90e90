/**
 * What of a jail has to be known to undo it after the program that made it has died. It is kept as `jail.json` in the
 * jail's directory, beside the jail's `/`, where the jailed program cannot reach it.
 */
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { StagingAccess, StagingMethod } from "./staging-plan.ts";

/** A file of the host whose owner or mode was changed for the jail; given back when the jail is removed. */
export type TakenFile = {
  /** On the host, links resolved */
  readonly path: string;
  /** Device and inode, decimal: a file that has taken the path's place since is left alone */
  readonly device: string;
  /** See `device` */
  readonly inode: string;
  /** Its owner before */
  readonly uid: number;
  /** Its group before */
  readonly gid: number;
  /** Its permission bits before */
  readonly mode: number;
};

/** A file that was brought in. */
export type StagedFile = {
  /** On the host, links resolved */
  readonly hostPath: string;
  /** In the jail, absolute */
  readonly jailPath: string;
  /** What the VMM does with it */
  readonly access: StagingAccess;
  /** How it came in */
  readonly method: StagingMethod;
  /** Device and inode of the host's file then */
  readonly inode: string;
};

/** A jail, enough of it to remove it or to go on with it. */
export type JailRecord = {
  /** The instance's id */
  readonly id: string;
  /** Random, so that a jail of the same name made by somebody else is told from this one */
  readonly token: string;
  /** What the VMM runs as */
  readonly uid: number;
  /** As `uid` */
  readonly gid: number;
  /** `<chrootBaseDir>/<execName>/<id>`; made by us, so whatever is in it may be removed */
  readonly directory: string;
  /** `<directory>/root`: the jail's `/` */
  readonly root: string;
  /** File name of the VMM, which also names its pid file */
  readonly execName: string;
  /** The jail's own cgroup directories */
  readonly cgroups: readonly string[];
  /** Directories above them that go as well once they are empty, the deepest first */
  readonly cgroupParents: readonly string[];
  /** To be given back */
  readonly takenFiles: readonly TakenFile[];
  /** All that was brought in, in that order */
  readonly stagedFiles: readonly StagedFile[];
};

/** The host's name of a path in the jail. */
export const hostPathInJail = (record: JailRecord, jailPath: string): string => `${record.root}${jailPath}`;

/** Where the jailer writes the VMM's pid. */
export const pidFileOf = (record: JailRecord): string => `${record.root}/${record.execName}.pid`;

const recordFile = "jail.json";

/** Writes the record into the jail's directory. */
export async function writeJailRecord(record: JailRecord): Promise<void> {
  const path = join(record.directory, recordFile);
  await writeFile(`${path}.new`, JSON.stringify(record), { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** The record of the jail in `directory`; undefined when there is none. */
export async function readJailRecord(directory: string): Promise<JailRecord | undefined> {
  let text: string;
  try {
    text = await readFile(join(directory, recordFile), "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw cause;
  }
  // Written by writeJailRecord, in a directory that nobody else can write to.
  return JSON.parse(text) as JailRecord;
}
