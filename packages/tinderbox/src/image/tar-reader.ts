/**
 * Reads tar archives from strangers: ustar, GNU and pax (IEEE 1003.1), every field bounded, names kept as bytes. A header's
 * checksum must be right, and what cannot be represented (sparse files, unknown kinds, numbers out of range) is refused.
 *
 *     0    100  108 116 124  136   148      156   157      257    263     265 297 329   337   345    500
 *     name mode uid gid size mtime checksum type  linkname magic  version ... ... major minor prefix ...
 */
import { TinderboxError } from "../base/errors.ts";
import { ByteSource } from "./byte-source.ts";
import { type TarEntry, type TarKind, tarBlockBytes } from "./tar-entry.ts";

/** Bytes of one pax header or long name; the kernel's paths end at 4096, xattr values at 64 KiB. */
const maxExtensionBytes = 1 << 20;
/** Extension headers in front of one entry. */
const maxExtensions = 8;
const maxId = 0xffff_fffe;
const maxTime = 0xffff_ffff;
const maxDeviceMajor = 0xfff;
const maxDeviceMinor = 0xf_ffff;

const kinds: Readonly<Record<string, TarKind>> = {
  "0": "file",
  "\0": "file",
  "7": "file",
  "1": "link",
  "2": "symlink",
  "3": "character-device",
  "4": "block-device",
  "5": "directory",
  "6": "fifo",
};

function malformed(why: string): TinderboxError {
  return new TinderboxError("IMAGE_MALFORMED", `tar archive: ${why}`);
}

function textField(block: Buffer, start: number, length: number): string {
  const field = block.subarray(start, start + length);
  const end = field.indexOf(0);
  return field.toString("latin1", 0, end < 0 ? length : end);
}

/** Octal text, or GNU's base 256 when the first bit is set. */
function numberField(block: Buffer, start: number, length: number, what: string): number {
  const first = block[start] ?? 0;
  if (first & 0x80) {
    if (first !== 0x80) throw malformed(`${what} is negative or too large`);
    let value = 0;
    for (let at = start + 1; at < start + length; at++) value = value * 256 + (block[at] ?? 0);
    if (!Number.isSafeInteger(value)) throw malformed(`${what} is too large`);
    return value;
  }
  const text = textField(block, start, length).trim();
  if (!/^[0-7]*$/.test(text)) throw malformed(`${what} is not a number`);
  return text === "" ? 0 : Number.parseInt(text, 8);
}

function checkSum(block: Buffer): void {
  let sum = 8 * 0x20;
  for (let at = 0; at < tarBlockBytes; at++) if (at < 148 || at >= 156) sum += block[at] ?? 0;
  if (sum !== numberField(block, 148, 8, "a header's checksum"))
    throw malformed("a header's checksum is wrong");
}

/** The records of a pax header: `LENGTH KEY=VALUE\n`. */
function parsePax(bytes: Buffer, into: Map<string, string>): void {
  const text = bytes.toString("latin1");
  for (let at = 0; at < text.length; ) {
    const space = text.indexOf(" ", at);
    const digits = space < 0 ? "" : text.slice(at, space);
    const end = at + Number(digits);
    if (!/^[1-9]\d{0,7}$/.test(digits) || end > text.length || end <= space || text[end - 1] !== "\n")
      throw malformed("a pax record has a wrong length");
    const equals = text.indexOf("=", space);
    if (equals < 0 || equals >= end) throw malformed("a pax record has no `=`");
    const [key, value] = [text.slice(space + 1, equals), text.slice(equals + 1, end - 1)];
    if (/^GNU\.sparse\./.test(key)) throw malformed("sparse entries are not supported");
    // An empty value takes an earlier one back.
    if (value === "") into.delete(key);
    else into.set(key, value);
    at = end;
  }
}

function paxNumber(text: string | undefined, what: string): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,16}(\.\d*)?$/.test(text)) throw malformed(`the pax record ${what} is not a number`);
  return Math.trunc(Number(text));
}

/** Extended attributes that a container may bring: file capabilities, and what users set. Others are the host's business. */
function keptXattrs(pax: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const kept = new Map<string, string>();
  for (const [key, value] of pax) {
    const name = key.startsWith("SCHILY.xattr.") ? key.slice("SCHILY.xattr.".length) : "";
    if ((name === "security.capability" || /^user\../.test(name)) && name.length <= 255)
      kept.set(name, value);
  }
  return kept;
}

function parseEntry(block: Buffer, pax: ReadonlyMap<string, string>): TarEntry {
  const flag = String.fromCharCode(block[156] ?? 0);
  const isUstar = block.toString("latin1", 257, 265) === "ustar\x0000";
  const prefix = isUstar ? textField(block, 345, 155) : "";
  const short = textField(block, 0, 100);
  const name = pax.get("path") ?? (prefix === "" ? short : `${prefix}/${short}`);
  const shown = JSON.stringify(name.slice(0, 200));
  if (flag === "S") throw malformed(`${shown}: sparse entries are not supported`);
  let kind = kinds[flag];
  if (kind === undefined) throw malformed(`${shown} has the unknown type ${JSON.stringify(flag)}`);
  // As before POSIX.
  if (kind === "file" && name.endsWith("/")) kind = "directory";
  const number = (start: number, length: number, what: string, max: number): number => {
    const value =
      paxNumber(pax.get(what), what) ?? numberField(block, start, length, `the ${what} of ${shown}`);
    if (value > max) throw malformed(`the ${what} of ${shown} is ${value}, at most ${max} is allowed`);
    return value;
  };
  const isLink = kind === "link" || kind === "symlink";
  const isDevice = kind === "character-device" || kind === "block-device";
  // Times before 1970 are base 256 and negative, or have a sign: they are taken as 1970.
  const isOld = ((block[136] ?? 0) & 0x80) !== 0 || pax.get("mtime")?.startsWith("-") === true;
  return {
    kind,
    name,
    linkName: isLink ? (pax.get("linkpath") ?? textField(block, 157, 100)) : "",
    mode: numberField(block, 100, 8, `the mode of ${shown}`) & 0o7777,
    uid: number(108, 8, "uid", maxId),
    gid: number(116, 8, "gid", maxId),
    mtime: isOld ? 0 : Math.min(number(136, 12, "mtime", Number.MAX_SAFE_INTEGER), maxTime),
    size: kind === "file" ? number(124, 12, "size", Number.MAX_SAFE_INTEGER) : 0,
    deviceMajor: isDevice ? number(329, 8, "device major", maxDeviceMajor) : 0,
    deviceMinor: isDevice ? number(337, 8, "device minor", maxDeviceMinor) : 0,
    xattrs: keptXattrs(pax),
  };
}

const isZero = (block: Buffer): boolean => block.every((byte) => byte === 0);

/**
 * The entries of an archive in order. Each `body` can be read once, before the next entry is asked for. What follows the end
 * of the archive is read too, and passed over. @throws IMAGE_MALFORMED
 */
export async function* readTar(
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<{ entry: TarEntry; body: AsyncGenerator<Buffer> }> {
  const bytes = new ByteSource(source, "tar archive: it ends in the middle of an entry");
  const globals = new Map<string, string>();
  let pax = new Map<string, string>();
  let extensions = 0;
  for (;;) {
    const block = await bytes.exactly(tarBlockBytes);
    if (block === undefined || isZero(block)) {
      if (extensions > 0) throw malformed("it ends after an extension header");
      break;
    }
    checkSum(block);
    const flag = String.fromCharCode(block[156] ?? 0);
    if ("xgLK".includes(flag)) {
      const size = numberField(block, 124, 12, "the size of an extension header");
      if (size > maxExtensionBytes || ++extensions > maxExtensions)
        throw malformed(
          `more than ${maxExtensions} extension headers, or one over ${maxExtensionBytes} bytes`,
        );
      const content = size === 0 ? Buffer.alloc(0) : await bytes.exactly(size);
      if (content === undefined) throw malformed("it ends in an extension header");
      await bytes.skip(-size & (tarBlockBytes - 1));
      if (flag === "x") parsePax(content, pax);
      else if (flag === "g") parsePax(content, globals);
      else pax.set(flag === "L" ? "path" : "linkpath", textField(content, 0, content.length));
      continue;
    }
    const entry = parseEntry(block, new Map([...globals, ...pax]));
    pax = new Map();
    extensions = 0;
    let left = entry.size;
    const read = async function* (): AsyncGenerator<Buffer> {
      while (left > 0) {
        const part = await bytes.some(left);
        if (part === undefined) throw malformed(`it ends inside ${JSON.stringify(entry.name.slice(0, 200))}`);
        left -= part.length;
        yield part;
      }
    };
    yield { entry, body: read() };
    for await (const _ of read());
    await bytes.skip(-entry.size & (tarBlockBytes - 1));
  }
  while ((await bytes.some(1 << 20)) !== undefined);
}
