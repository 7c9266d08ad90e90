/** Whether an image's file is what was written: found at a glance, without reading all of it. */
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { errnoOf, TinderboxError } from "../base/errors.ts";

/** squashfs 4.0: magic at 0, bytes used (u64) at 40. */
const superblockBytes = 96;
const squashfsMagic = 0x73717368;

/** What is wrong with the squashfs file that had `sizeBytes`; undefined when nothing is. */
export function damageOf(path: string, sizeBytes: number): string | undefined {
  const superblock = Buffer.alloc(superblockBytes);
  try {
    const { size } = statSync(path);
    if (size !== sizeBytes) return `it has ${size} of ${sizeBytes} bytes`;
    const file = openSync(path, "r");
    try {
      readSync(file, superblock, 0, superblockBytes, 0);
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    return errnoOf(cause) === "ENOENT" ? "it is gone" : TinderboxError.from(cause).message;
  }
  const isWhole =
    superblock.readUInt32LE(0) === squashfsMagic && superblock.readBigUInt64LE(40) <= BigInt(sizeBytes);
  return isWhole ? undefined : "it does not begin as a squashfs file does";
}
