/**
 * Writes cpio archives in the "newc" format, which the kernel unpacks as an initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Same entries, same bytes: they are sorted by path,
 * owned by root and dated 1970. Parent directories that are not given are made.
 *
 *   "070701" | 13 fields of 8 hex digits | name NUL | pad to 4 | content | pad to 4      ... "TRAILER!!!"
 */
import { TinderboxError } from "../base/errors.ts";

/** One file of an archive; `path` is relative, without `.` or `..`. */
export type NewcEntry =
  | { readonly kind: "file"; readonly path: string; readonly mode: number; readonly content: Uint8Array }
  | { readonly kind: "directory"; readonly path: string; readonly mode: number }
  | { readonly kind: "symlink"; readonly path: string; readonly target: string }
  | {
      readonly kind: "character-device";
      readonly path: string;
      readonly mode: number;
      readonly major: number;
      readonly minor: number;
    };

const fileTypes = { file: 0o100000, directory: 0o040000, symlink: 0o120000, "character-device": 0o020000 };

const maxFileBytes = 0xffff_ffff;

function checkPath(path: string): void {
  const parts = path.split("/");
  if (parts.some((part) => part === "" || part === "." || part === "..") || path.includes("\0"))
    throw new TinderboxError("INVALID", `cpio: path ${JSON.stringify(path)} is not a plain relative path`);
}

function header(
  entry: NewcEntry | undefined,
  inode: number,
  nameBytes: number,
  contentBytes: number,
): Buffer {
  const mode =
    entry === undefined ? 0 : fileTypes[entry.kind] | (entry.kind === "symlink" ? 0o777 : entry.mode);
  const device = entry?.kind === "character-device" ? entry : { major: 0, minor: 0 };
  const links = entry?.kind === "directory" ? 2 : 1;
  //              ino   mode  uid gid nlink mtime size       dev  dev rdev          rdev          name bytes, check
  const fields = [inode, mode, 0, 0, links, 0, contentBytes, 0, 0, device.major, device.minor, nameBytes, 0];
  return Buffer.from(
    `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`,
    "latin1",
  );
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}

/** The entries with the parents they lack, in the order in which they can be unpacked. */
function complete(entries: readonly NewcEntry[]): NewcEntry[] {
  const all = new Map<string, NewcEntry>();
  for (const entry of entries) {
    checkPath(entry.path);
    if (all.has(entry.path)) throw new TinderboxError("INVALID", `cpio: ${entry.path} is given twice`);
    all.set(entry.path, entry);
  }
  for (const { path } of entries) {
    for (let slash = path.indexOf("/"); slash !== -1; slash = path.indexOf("/", slash + 1)) {
      const parent = path.slice(0, slash);
      const present = all.get(parent);
      if (present === undefined) all.set(parent, { kind: "directory", path: parent, mode: 0o755 });
      else if (present.kind !== "directory")
        throw new TinderboxError("INVALID", `cpio: ${parent} is a ${present.kind}, but ${path} is below it`);
    }
  }
  return [...all.values()].sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
}

/** The archive of `entries`, uncompressed. */
export function writeNewcArchive(entries: readonly NewcEntry[]): Buffer {
  const chunks: Uint8Array[] = [];
  const add = (entry: NewcEntry | undefined, inode: number): void => {
    const name = Buffer.from(`${entry?.path ?? "TRAILER!!!"}\0`);
    const content =
      entry?.kind === "file"
        ? entry.content
        : entry?.kind === "symlink"
          ? Buffer.from(entry.target)
          : Buffer.alloc(0);
    if (content.length > maxFileBytes)
      throw new TinderboxError(
        "LIMIT",
        `cpio: ${entry?.path} has ${content.length} bytes, at most 4 GiB fit`,
      );
    const head = header(entry, inode, name.length, content.length);
    chunks.push(head, name, padding(head.length + name.length), content, padding(content.length));
  };
  complete(entries).forEach((entry, index) => {
    add(entry, index + 1);
  });
  add(undefined, 0);
  return Buffer.concat(chunks);
}
