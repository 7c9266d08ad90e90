/** One member of a tar archive, as `tar-reader.ts` gives it and `tar-writer.ts` takes it. */

export type TarKind =
  | "file"
  | "directory"
  | "symlink"
  | "link"
  | "character-device"
  | "block-device"
  | "fifo";

export type TarEntry = {
  readonly kind: TarKind;
  /** A character a byte (latin1): a file name need not be UTF-8 */
  readonly name: string;
  /** Of a symlink or hard link, a character a byte; "" otherwise */
  readonly linkName: string;
  /** Permission bits with set-uid, set-gid and sticky: 0 to 0o7777 */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Whole seconds since 1970, 0 to 2^32-1 */
  readonly mtime: number;
  /** Body bytes; 0 for all kinds but files */
  readonly size: number;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  /** Extended attributes, name and value a character a byte */
  readonly xattrs: ReadonlyMap<string, string>;
};

export const tarBlockBytes = 512;
