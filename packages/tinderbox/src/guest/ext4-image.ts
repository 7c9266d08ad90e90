/**
 * Makes an ext4 file system image of a directory with e2fsprogs, without mounting anything. Same content, same bytes:
 * ids, hash seed and dates are fixed. mke2fs takes times of access and change from the source files, which nobody can
 * set there, so they are set in the image afterwards.
 */

import { open, rename, rm } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { type RunOptions, run, tryRun } from "../native/run.ts";

/** Files that are put into the image after it was filled; a symlink in their path is followed inside the image. */
export type ImageFile = { readonly path: string; readonly source: string; readonly mode: number };

/** What `makeExt4Image` is asked for. */
export type Ext4Options = {
  /** Its content becomes the root directory */
  readonly directory: string;
  readonly output: string;
  readonly sizeMib: number;
  readonly files?: readonly ImageFile[];
  readonly signal?: AbortSignal;
};

const uuid = "7b0c5f5e-7d1b-4f0e-9c51-71de2b0e0001";
const hashSeed = "7b0c5f5e-7d1b-4f0e-9c51-71de2b0e0002";
const timeoutMs = 600_000;
const rootInode = 2;
const firstUserInode = 11;

const env = {
  ...process.env,
  LC_ALL: "C",
  SOURCE_DATE_EPOCH: "1",
  E2FSPROGS_FAKE_TIME: "1",
  MKE2FS_CONFIG: "/dev/null",
};

/** debugfs splits its commands at blanks and knows no escapes, so such names are refused. */
function debugfsWord(path: string): string {
  if (!/^\/?[\w./+@:-]+$/.test(path))
    throw new TinderboxError(
      "INVALID",
      `path ${JSON.stringify(path)} has characters that debugfs cannot take`,
    );
  return path;
}

/** Makes `options.output`, whole or not at all. */
export async function makeExt4Image(options: Ext4Options): Promise<void> {
  const { directory, output, sizeMib, files = [], signal } = options;
  const temporary = `${debugfsWord(output)}.${process.pid}.tmp`;
  const limits = { env, timeoutMs, ...(signal && { signal }) };
  try {
    const file = await open(temporary, "wx", 0o644);
    try {
      await file.truncate(sizeMib << 20);
    } finally {
      await file.close();
    }
    await run(
      "mke2fs",
      [
        ...["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-L", "rootfs", "-d", directory],
        // Named, because mke2fs.conf differs between hosts (and is not read here).
        ...[
          "-O",
          "extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,has_journal,sparse_super,large_file,filetype,dir_index,ext_attr,resize_inode",
        ],
        ...["-U", uuid, "-E", `hash_seed=${hashSeed},lazy_itable_init=0,lazy_journal_init=0,nodiscard`],
        temporary,
      ],
      limits,
    );
    await addFiles(temporary, files, limits);
    await normaliseTimes(temporary, limits);
    await rename(temporary, output);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw cause;
  }
}

/** Runs debugfs commands on an image; it reports their faults on stderr only, so any that is not allowed throws. */
async function debugfs(
  image: string,
  commands: readonly string[],
  limits: RunOptions,
  allowed?: RegExp,
): Promise<void> {
  const input = `${commands.join("\n")}\n`;
  const { code, stderr } = await tryRun("debugfs", ["-w", "-f", "-", image], { ...limits, input });
  const faults = stderr
    .split("\n")
    .filter((line) => line && !line.startsWith("debugfs 1.") && !allowed?.test(line));
  if (code !== 0 || faults.length > 0)
    throw new TinderboxError(
      "TOOL_FAILED",
      `debugfs ${image}: ${faults.slice(0, 3).join("; ") || `status ${code}`}`,
    );
}

async function addFiles(image: string, files: readonly ImageFile[], limits: RunOptions): Promise<void> {
  for (const { path, source, mode } of files) {
    const name = debugfsWord(basename(path));
    // The dot makes debugfs follow a directory that is a symlink, inside the image.
    const enter = `cd ${debugfsWord(dirname(path))}/.`;
    await debugfs(image, [enter, `rm ${name}`], limits, /^rm: File not found/);
    await debugfs(
      image,
      [
        enter,
        `write ${debugfsWord(source)} ${name}`,
        `sif ${name} mode 0${(0o100000 | mode).toString(8)}`,
        ...["uid", "gid", "mtime", "crtime", "mtime_extra", "crtime_extra"].map(
          (field) => `sif ${name} ${field} 0`,
        ),
      ],
      limits,
    );
  }
}

/** Sets the times that come from the clock. Free inodes hold zeros there already. */
async function normaliseTimes(image: string, limits: RunOptions): Promise<void> {
  const summary = await run("dumpe2fs", ["-h", image], limits);
  const inodes = Number(/^Inode count: +(\d+)$/m.exec(summary)?.[1]);
  if (!(inodes > firstUserInode))
    throw new TinderboxError("TOOL_FAILED", `dumpe2fs ${image}: no inode count in its answer`);
  const commands: string[] = [];
  const set = (inode: number): void => {
    for (const field of ["atime", "ctime", "atime_extra", "ctime_extra"])
      commands.push(`sif <${inode}> ${field} 0`);
  };
  set(rootInode);
  for (let inode = firstUserInode; inode <= inodes; inode++) set(inode);
  await debugfs(image, commands, limits);
}
