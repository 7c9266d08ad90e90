/**
 * Turns a distribution's kernel image into what a microVM boots: on x86 the ELF inside a bzImage
 * (Documentation/arch/x86/boot.rst), on ARM the Image, which may be packed in an EFI zboot image or in gzip.
 * LZ4, gzip and zstd are unpacked here, xz by its tool; bzip2, lzma and lzo kernels are refused.
 */
import { readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { run } from "../native/run.ts";
import { decodeLegacyLz4 } from "./legacy-lz4.ts";

/** Larger kernels than this are not believed. */
const maxKernelBytes = 512 << 20;

/** The compressed kernel inside an image. */
export type KernelPayload = {
  readonly bytes: Buffer;
  /** Size of the unpacked kernel as the image says, undefined when it does not */
  readonly unpackedBytes: number | undefined;
};

const bootHeader = {
  setupSectors: 0x1f1,
  bootFlag: 0x1fe,
  magic: 0x202,
  version: 0x206,
  payloadOffset: 0x248,
  payloadLength: 0x24c,
  end: 0x250,
};

function malformed(what: string): TinderboxError {
  return new TinderboxError("INVALID", `kernel image: ${what}`, {
    hint: "give a bzImage (vmlinuz) or an uncompressed ELF kernel (vmlinux) of this machine's architecture",
  });
}

/** Whether the image has x86's boot header. */
function isBzImage(image: Buffer): boolean {
  return (
    image.length >= bootHeader.end &&
    image.readUInt16LE(bootHeader.bootFlag) === 0xaa55 &&
    image.toString("latin1", bootHeader.magic, bootHeader.magic + 4) === "HdrS"
  );
}

/** Finds the compressed kernel in a bzImage. */
export function findBzImagePayload(image: Buffer): KernelPayload {
  if (!isBzImage(image)) throw malformed("no HdrS boot header");
  const version = image.readUInt16LE(bootHeader.version);
  if (version < 0x0208) throw malformed(`boot protocol ${version >> 8}.${version & 255}, 2.08 is the oldest`);
  // Zero sectors mean four, says the protocol.
  const setupSectors = image[bootHeader.setupSectors] || 4;
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(bootHeader.payloadOffset);
  const length = image.readUInt32LE(bootHeader.payloadLength);
  if (length < 8 || start + length > image.length)
    throw malformed(
      `payload of ${length} bytes at ${start} is not inside the image of ${image.length} bytes`,
    );
  const payload = image.subarray(start, start + length);
  // The kernel's build appends the unpacked size to every format; gzip has it at its end already.
  const unpackedBytes = payload.readUInt32LE(length - 4);
  const isGzip = payload.readUInt16BE(0) === 0x1f8b;
  return { bytes: isGzip ? payload : payload.subarray(0, -4), unpackedBytes };
}

/** Finds the compressed kernel in an EFI zboot image (ARM): "MZ", "zimg", offset, length. */
function findZbootPayload(image: Buffer): KernelPayload {
  const start = image.readUInt32LE(8);
  const length = image.readUInt32LE(12);
  if (length < 8 || start + length > image.length)
    throw malformed(
      `payload of ${length} bytes at ${start} is not inside the image of ${image.length} bytes`,
    );
  return { bytes: image.subarray(start, start + length), unpackedBytes: undefined };
}

/** Unpacks with the xz tool, through files in `workDir`: the only format that Node lacks and kernels use. */
async function unpackXz(packed: Buffer, workDir: string, signal?: AbortSignal): Promise<Buffer> {
  const path = join(workDir, `payload-${process.pid}`);
  try {
    await writeFile(`${path}.xz`, packed, { mode: 0o600 });
    await run("xz", ["--decompress", "--force", "--memlimit-decompress=1GiB", `${path}.xz`], {
      ...(signal && { signal }),
    });
    if ((await stat(path)).size > maxKernelBytes)
      throw malformed(`unpacks to more than ${maxKernelBytes} bytes`);
    return await readFile(path);
  } finally {
    await rm(`${path}.xz`, { force: true });
    await rm(path, { force: true });
  }
}

/** Unpacks by the magic number in front. */
export async function unpackByMagic(
  payload: KernelPayload,
  workDir: string,
  signal?: AbortSignal,
): Promise<Buffer> {
  const { bytes, unpackedBytes } = payload;
  if (unpackedBytes !== undefined && unpackedBytes > maxKernelBytes)
    throw malformed(`says it unpacks to ${unpackedBytes} bytes, at most ${maxKernelBytes} are allowed`);
  const limit = { maxOutputLength: unpackedBytes || maxKernelBytes };
  const magic = bytes.subarray(0, 6).toString("hex");
  let kernel: Buffer;
  try {
    if (magic.startsWith("1f8b")) kernel = gunzipSync(bytes, limit);
    else if (magic.startsWith("28b52ffd")) kernel = zstdDecompressSync(bytes, limit);
    else if (magic.startsWith("02214c18") && unpackedBytes !== undefined)
      kernel = decodeLegacyLz4(bytes, unpackedBytes);
    else if (magic === "fd377a585a00") kernel = await unpackXz(bytes, workDir, signal);
    else if (magic.startsWith("425a68")) throw malformed("compressed with bzip2, which is not supported");
    else if (magic.startsWith("894c5a")) throw malformed("compressed with lzo, which is not supported");
    else if (magic.startsWith("5d0000")) throw malformed("compressed with lzma, which is not supported");
    else throw malformed(`unknown compression, starts with ${magic}`);
  } catch (cause) {
    if (cause instanceof TinderboxError) throw cause;
    const short = errnoOf(cause) ?? (cause instanceof Error ? cause.message : String(cause));
    throw new TinderboxError("INVALID", `kernel image: cannot be unpacked: ${short}`, { cause });
  }
  if (unpackedBytes !== undefined && kernel.length !== unpackedBytes)
    throw malformed(`unpacked to ${kernel.length} bytes instead of ${unpackedBytes}`);
  return kernel;
}

function isElf(bytes: Buffer): boolean {
  return bytes.length >= 64 && bytes.readUInt32BE(0) === 0x7f454c46;
}

/** ARM's Image: "ARM\x64" at 56. */
function isArmImage(bytes: Buffer): boolean {
  return bytes.length >= 64 && bytes.readUInt32LE(56) === 0x644d5241;
}

/**
 * The bootable kernel in `image`: an ELF file, or ARM's Image. Files that are one already are returned as they are.
 *
 * @throws {TinderboxError} INVALID when it is no kernel image, is cut off, or is compressed in a way we don't read
 */
export async function unpackKernel(image: Buffer, workDir: string, signal?: AbortSignal): Promise<Buffer> {
  if (image.length > maxKernelBytes)
    throw malformed(`has ${image.length} bytes, at most ${maxKernelBytes} are allowed`);
  if (isElf(image)) return image;
  if (isBzImage(image)) {
    const kernel = await unpackByMagic(findBzImagePayload(image), workDir, signal);
    if (!isElf(kernel)) throw malformed("holds no ELF file");
    return kernel;
  }
  if (isArmImage(image)) return image;
  const isZboot = image.length >= 32 && image.toString("latin1", 4, 8) === "zimg";
  const isGzip = image.length >= 18 && image.readUInt16BE(0) === 0x1f8b;
  if (!isZboot && !isGzip) throw malformed("neither a bzImage, an ELF file nor an ARM Image");
  const payload = isZboot ? findZbootPayload(image) : { bytes: image, unpackedBytes: undefined };
  const kernel = await unpackByMagic(payload, workDir, signal);
  if (!isArmImage(kernel)) throw malformed("holds no ARM Image");
  return kernel;
}

/** The release a kernel calls itself ("6.1.0-56-cloud-amd64"), from the banner that every kernel carries. */
export function kernelReleaseOf(kernel: Buffer): string | undefined {
  const prefix = "Linux version ";
  for (let at = kernel.indexOf(prefix); at !== -1; at = kernel.indexOf(prefix, at + 1)) {
    const release = /^(\d[\w.+~-]{0,63}) \(/.exec(
      kernel.toString("latin1", at + prefix.length, at + prefix.length + 80),
    );
    if (release?.[1] !== undefined) return release[1];
  }
  return undefined;
}
