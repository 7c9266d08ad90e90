// Files that a client names are opened when they are named, and kept: a wrong path is refused by the call that has it, and what
// happens to the path afterwards does not matter.
import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats } from "node:fs";

/** Opens `path` for reading; a directory can be opened, too. @throws the system's error */
export function openReadable(path: string): number {
  // Never wait for the other end of a FIFO.
  return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
}

/** Opens `path` as a drive's file. What has no size is refused. @throws the system's error */
export function openDrive(path: string, isReadOnly: boolean): number {
  const fd = openSync(path, (isReadOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK);
  if (!fstatSync(fd).isFIFO()) return fd;
  closeSync(fd);
  throw Object.assign(new Error("a FIFO"), { errno: 29 });
}

/** What is behind a drive. */
export type Backing = { readonly bytes: number; readonly isBlockDevice: boolean };

/** Of an open file or block device, whose size is not its inode's. */
export function backingOf(fd: number): Backing {
  const stats = fstatSync(fd);
  const isBlockDevice = stats.isBlockDevice();
  return { bytes: isBlockDevice ? deviceBytes(stats) : stats.size, isBlockDevice };
}

function deviceBytes(stats: Stats): number {
  // The kernel's numbers in one, as glibc's gnu_dev_major and gnu_dev_minor take them apart.
  const [major, minor] = [(stats.rdev >>> 8) & 0xfff, (stats.rdev & 0xff) | ((stats.rdev >>> 12) & 0xfff00)];
  return Number(readFileSync(`/sys/dev/block/${major}:${minor}/size`, "utf8")) * 512;
}

/** Opens `path` as a drive's file and closes it again. @throws the system's error */
export function probeDrive(path: string, isReadOnly: boolean): Backing {
  const fd = openDrive(path, isReadOnly);
  try {
    return backingOf(fd);
  } finally {
    closeSync(fd);
  }
}

/** Open files by what they are for. */
export class KeptFiles {
  readonly #fds = new Map<string, number>();

  /** Keeps `fd` in place of the one before. */
  keep(purpose: string, fd: number): void {
    this.drop(purpose);
    this.#fds.set(purpose, fd);
  }

  drop(purpose: string): void {
    const fd = this.#fds.get(purpose);
    if (fd !== undefined) closeSync(fd);
    this.#fds.delete(purpose);
  }

  /** @throws {Error} when there is none */
  get(purpose: string): number {
    const fd = this.#fds.get(purpose);
    if (fd === undefined) throw new Error(`no file is open for the ${purpose}`);
    return fd;
  }

  /** A path that opens the very file again. */
  path(purpose: string): string {
    return `/proc/self/fd/${this.get(purpose)}`;
  }

  /** QEMU has them now. */
  closeAll(): void {
    for (const purpose of [...this.#fds.keys()]) this.drop(purpose);
  }
}
