// Files that a client names are opened when they are named, so a wrong path is refused by the call that has it.
import { closeSync, constants, fstatSync, openSync } from "node:fs";

/** Opens `path` for reading and closes it again; a directory can be opened, too. @throws the system's error */
export function probeReadable(path: string): void {
  // Never wait for the other end of a FIFO.
  closeSync(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
}

/** Opens `path` as a drive's file and closes it again; its size in bytes. What has no size is refused. @throws the system's error */
export function probeDrive(path: string, isReadOnly: boolean): number {
  const fd = openSync(path, (isReadOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK);
  try {
    const stats = fstatSync(fd);
    if (stats.isFIFO()) throw Object.assign(new Error("a FIFO"), { errno: 29 });
    return stats.size;
  } finally {
    closeSync(fd);
  }
}
