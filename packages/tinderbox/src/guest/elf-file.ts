/**
 * Reads the few facts of 64-bit little-endian ELF files that a guest needs: what a program is linked with, and the
 * `.modinfo` section of a kernel module. Every offset is checked against the file. See elf(5).
 */
import { TinderboxError } from "../base/errors.ts";

/** What the dynamic loader would have to know of a program or library. */
export type ElfLinkage = {
  /** `e_machine`: 62 = x86-64, 183 = AArch64 */
  readonly machine: number;
  /** PT_INTERP, absolute; undefined for libraries and static programs */
  readonly interpreter: string | undefined;
  /** DT_NEEDED in the file's order */
  readonly needed: readonly string[];
  /** DT_RUNPATH or DT_RPATH, split at colons */
  readonly runpath: readonly string[];
};

const segment = { load: 1, dynamic: 2, interpreter: 3 };
const tag = { end: 0, needed: 1, stringTable: 5, stringTableBytes: 10, rpath: 15, runpath: 29 };
const maxEntries = 4096;
const maxNameBytes = 4096;

/** Bounds-checked reads; offsets above 2^53 are refused by Buffer itself. */
class ElfReader {
  readonly bytes: Buffer;
  readonly name: string;

  constructor(bytes: Buffer, name: string) {
    this.bytes = bytes;
    this.name = name;
    if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46) throw this.malformed("not an ELF file");
    if (bytes[4] !== 2 || bytes[5] !== 1) throw this.malformed("not 64-bit little-endian");
  }

  malformed(what: string): TinderboxError {
    return new TinderboxError("INVALID", `${this.name}: ${what}`);
  }

  u64(offset: number): number {
    return Number(this.bytes.readBigUInt64LE(offset));
  }

  slice(offset: number, length: number): Buffer {
    if (offset + length > this.bytes.length)
      throw this.malformed(`${length} bytes at ${offset} leave the file`);
    return this.bytes.subarray(offset, offset + length);
  }

  string(table: Buffer, offset: number): string {
    const end = table.indexOf(0, offset);
    if (offset >= table.length || end === -1 || end - offset > maxNameBytes)
      throw this.malformed(`no string at ${offset}`);
    return table.toString("utf8", offset, end);
  }

  /** The records of a header table whose place, size and count are in the ELF header. */
  *records(placeAt: number, sizeAt: number, countAt: number, minBytes: number): Generator<Buffer> {
    const place = this.u64(placeAt);
    const size = this.bytes.readUInt16LE(sizeAt);
    const count = this.bytes.readUInt16LE(countAt);
    if (count > 0 && size < minBytes) throw this.malformed(`header table records of ${size} bytes`);
    for (let index = 0; index < count; index++) yield this.slice(place + index * size, minBytes);
  }

  segments(): { type: number; offset: number; address: number; fileBytes: number }[] {
    return Array.from(this.records(0x20, 0x36, 0x38, 56), (record) => ({
      type: record.readUInt32LE(0),
      offset: Number(record.readBigUInt64LE(8)),
      address: Number(record.readBigUInt64LE(16)),
      fileBytes: Number(record.readBigUInt64LE(32)),
    }));
  }
}

/** Runs a reader; a read outside the file is the file's fault, not a crash of ours. */
function guarded<T>(name: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (cause instanceof RangeError)
      throw new TinderboxError("INVALID", `${name}: ELF file is cut off`, { cause });
    throw cause;
  }
}

/** What `bytes` is linked with; `name` is for messages. */
export function readElfLinkage(bytes: Buffer, name: string): ElfLinkage {
  return guarded(name, () => {
    const elf = new ElfReader(bytes, name);
    const segments = elf.segments();
    const machine = bytes.readUInt16LE(18);
    const interpreterSegment = segments.find(({ type }) => type === segment.interpreter);
    const interpreter =
      interpreterSegment &&
      elf.string(
        elf.slice(interpreterSegment.offset, Math.min(interpreterSegment.fileBytes, maxNameBytes)),
        0,
      );
    const dynamic = segments.find(({ type }) => type === segment.dynamic);
    if (dynamic === undefined) return { machine, interpreter, needed: [], runpath: [] };

    const table = elf.slice(dynamic.offset, dynamic.fileBytes);
    const entries: { tag: number; value: number }[] = [];
    for (let at = 0; at + 16 <= table.length; at += 16) {
      const entry = { tag: Number(table.readBigInt64LE(at)), value: Number(table.readBigUInt64LE(at + 8)) };
      if (entry.tag === tag.end) break;
      if (entries.push(entry) > maxEntries) throw elf.malformed(`more than ${maxEntries} dynamic entries`);
    }
    const entryValue = (wanted: number): number | undefined =>
      entries.find((entry) => entry.tag === wanted)?.value;
    const address = entryValue(tag.stringTable);
    const length = entryValue(tag.stringTableBytes);
    if (address === undefined || length === undefined) throw elf.malformed("no dynamic string table");
    const home = segments.find(
      (load) =>
        load.type === segment.load && address >= load.address && address < load.address + load.fileBytes,
    );
    if (home === undefined) throw elf.malformed("the dynamic string table is in no segment");
    const strings = elf.slice(address - home.address + home.offset, length);
    const runpathAt = entryValue(tag.runpath) ?? entryValue(tag.rpath);
    return {
      machine,
      interpreter,
      needed: entries
        .filter((entry) => entry.tag === tag.needed)
        .map((entry) => elf.string(strings, entry.value)),
      runpath: runpathAt === undefined ? [] : elf.string(strings, runpathAt).split(":").filter(Boolean),
    };
  });
}

/** The content of the section `wanted`, undefined when the file has none. */
export function readElfSection(bytes: Buffer, wanted: string, name: string): Buffer | undefined {
  return guarded(name, () => {
    const elf = new ElfReader(bytes, name);
    const sections = Array.from(elf.records(0x28, 0x3a, 0x3c, 64), (record) => ({
      nameAt: record.readUInt32LE(0),
      offset: Number(record.readBigUInt64LE(24)),
      bytes: Number(record.readBigUInt64LE(32)),
    }));
    const nameSection = sections[bytes.readUInt16LE(0x3e)];
    if (nameSection === undefined) return undefined;
    const names = elf.slice(nameSection.offset, nameSection.bytes);
    const found = sections.find(
      ({ nameAt }) => nameAt < names.length && elf.string(names, nameAt) === wanted,
    );
    return found && elf.slice(found.offset, found.bytes);
  });
}
