/**
 * What is in CDI's files is run and mounted as root. So only root may be able to change them: files, their directory, and the
 * directories that it is in.
 */
import { constants, type Stats } from "node:fs";
import { lstat, open, readdir, realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { errnoOf } from "../base/errors.ts";

const maxFileBytes = 1 << 20;
const maxFiles = 1000;
const [groupOrOthersWrite, sticky] = [0o022, 0o1000];

/** What tells one content of a file from another. */
export type FileMark = string;

/** Who else than root may change it; undefined: nobody. */
function distrust(stat: Stats, isAbove: boolean): string | undefined {
  if (stat.uid !== 0) return `it belongs to user ${stat.uid}, not to root`;
  // In a sticky directory nobody can replace what is root's.
  if ((stat.mode & groupOrOthersWrite) === 0 || (isAbove && (stat.mode & sticky) !== 0)) return undefined;
  return "others than root may write to it";
}

/** Names of the CDI files in a directory, sorted. A directory that is not there has none. @throws an Error that says why it cannot be trusted */
export async function listCdiFiles(directory: string): Promise<readonly string[]> {
  let at: string;
  try {
    at = await realpath(directory);
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return [];
    throw cause;
  }
  for (let path = at; ; path = dirname(path)) {
    const why = distrust(await lstat(path), path !== at);
    if (why !== undefined) throw new Error(path === at ? why : `${path}: ${why}`);
    if (path === "/") break;
  }
  const names = (await readdir(at)).filter((name) => /\.(json|yaml)$/.test(name)).sort();
  if (names.length > maxFiles) throw new Error(`${names.length} files: at most ${maxFiles} are read`);
  return names.map((name) => join(at, name));
}

function markOf({ dev, ino, size, mtimeMs, ctimeMs, mode, uid }: Stats): FileMark {
  return [dev, ino, size, mtimeMs, ctimeMs, mode, uid].join(" ");
}

/** The mark of what is at `path` now. */
export async function markOfFile(path: string): Promise<FileMark> {
  return markOf(await lstat(path));
}

/** Reads a file, not following a link. @throws an Error that says why it is not read */
export async function readTrusted(
  path: string,
): Promise<{ readonly mark: FileMark; readonly content: string }> {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const handle = await open(path, flags).catch((cause) => {
    throw errnoOf(cause) === "ELOOP" ? new Error("a link: not followed") : cause;
  });
  try {
    const stat = await handle.stat();
    const why = stat.isFile() ? distrust(stat, false) : "not a file";
    if (why !== undefined) throw new Error(why);
    if (stat.size > maxFileBytes) throw new Error(`${stat.size} bytes: at most ${maxFileBytes} are read`);
    const bytes = Buffer.alloc(stat.size);
    const { bytesRead } = await handle.read(bytes, 0, stat.size, 0);
    return { mark: markOf(stat), content: bytes.subarray(0, bytesRead).toString("utf8") };
  } finally {
    await handle.close();
  }
}
