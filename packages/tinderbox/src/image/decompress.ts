/** Files that may be compressed with gzip or zstd, as streams of what is in them. */
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { Duplex, type Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { frameMagic, isSkippableMagic, unpackZstd } from "./zstd-frames.ts";

/** The file's bytes, and the steps that unpack them; told by its first bytes, as media types are often wrong. */
export async function openCompressed(
  path: string,
): Promise<{ source: Readable; steps: NodeJS.ReadWriteStream[] }> {
  const file = await open(path, "r");
  const magic = Buffer.alloc(4);
  try {
    await file.read(magic, 0, 4, 0);
  } finally {
    await file.close();
  }
  const source = createReadStream(path, { highWaterMark: 256 * 1024 });
  if (magic.readUInt16BE(0) === 0x1f8b) return { source, steps: [createGunzip()] };
  const word = magic.readUInt32LE(0);
  if (word === frameMagic || isSkippableMagic(word)) return { source, steps: [Duplex.from(unpackZstd)] };
  return { source, steps: [] };
}
