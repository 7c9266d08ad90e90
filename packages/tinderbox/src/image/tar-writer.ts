/** Tar archives in the GNU format: long names and large numbers as GNU has them, extended attributes as pax records. */
import { type TarEntry, type TarKind, tarBlockBytes } from "./tar-entry.ts";

const flags: Readonly<Record<TarKind, string>> = {
  file: "0",
  link: "1",
  symlink: "2",
  "character-device": "3",
  "block-device": "4",
  directory: "5",
  fifo: "6",
};

/** What ends an archive. */
export const tarEnd: Buffer = Buffer.alloc(2 * tarBlockBytes);

/** The zeros between a body of `size` bytes and the next header. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc(-size & (tarBlockBytes - 1));
}

function putNumber(block: Buffer, start: number, length: number, value: number): void {
  const octal = value.toString(8);
  if (octal.length < length) {
    block.write(octal.padStart(length - 1, "0"), start, "latin1");
    return;
  }
  block[start] = 0x80;
  let rest = value;
  for (let at = start + length - 1; at > start; at--) {
    block[at] = rest % 256;
    rest = Math.floor(rest / 256);
  }
}

type Fields = Omit<TarEntry, "xattrs" | "kind">;

function header(flag: string, fields: Fields): Buffer {
  const block = Buffer.alloc(tarBlockBytes);
  block.write(fields.name.slice(0, 100), 0, "latin1");
  putNumber(block, 100, 8, fields.mode);
  putNumber(block, 108, 8, fields.uid);
  putNumber(block, 116, 8, fields.gid);
  putNumber(block, 124, 12, fields.size);
  putNumber(block, 136, 12, fields.mtime);
  block.write("        ", 148, "latin1");
  block.write(flag, 156, "latin1");
  block.write(fields.linkName.slice(0, 100), 157, "latin1");
  block.write("ustar  \0", 257, "latin1");
  putNumber(block, 329, 8, fields.deviceMajor);
  putNumber(block, 337, 8, fields.deviceMinor);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

function extension(flag: string, content: Buffer): Buffer[] {
  const name = flag === "x" ? "PaxHeader" : "././@LongLink";
  const plain = { mode: 0o644, uid: 0, gid: 0, mtime: 0, linkName: "", deviceMajor: 0, deviceMinor: 0 };
  return [header(flag, { ...plain, name, size: content.length }), content, tarPadding(content.length)];
}

/** A pax record, whose length counts its own digits. */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length}${rest}`;
}

/** The headers of an entry. Its body of `entry.size` bytes, and `tarPadding`, have to follow. */
export function tarHeader(entry: TarEntry): Buffer {
  const parts: Buffer[] = [];
  const { kind, name, linkName, xattrs } = entry;
  if (xattrs.size > 0) {
    const records = [...xattrs].map(([key, value]) => paxRecord(`SCHILY.xattr.${key}`, value)).join("");
    parts.push(...extension("x", Buffer.from(records, "latin1")));
  }
  if (name.length > 100) parts.push(...extension("L", Buffer.from(`${name}\0`, "latin1")));
  if (linkName.length > 100) parts.push(...extension("K", Buffer.from(`${linkName}\0`, "latin1")));
  return Buffer.concat([...parts, header(flags[kind], entry)]);
}
