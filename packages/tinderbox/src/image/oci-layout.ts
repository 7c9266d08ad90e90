/** An OCI image layout (image-spec, image-layout.md) as an origin of images: a directory, or what came out of an archive. */
import { constants } from "node:fs";
import { type FileHandle, open, rm } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import {
  type BlobOptions,
  type Descriptor,
  type ImageOrigin,
  type ManifestBytes,
  maxManifestBytes,
} from "./image-origin.ts";
import { ownArchitecture, type Platform, parseJson } from "./manifest.ts";
import { BlobFile, digestOf } from "./verified-copy.ts";

/** Opens a file of a layout by its name in there (`blobs/sha256/...`). */
export type LayoutFiles = (name: string) => Promise<FileHandle>;

const notHere = (name: string, cause?: unknown): TinderboxError =>
  new TinderboxError("NOT_FOUND", `${name} is not there`, cause === undefined ? {} : { cause });

/** The file itself: not what a link points to, and nothing that would block. @throws NOT_FOUND, IMAGE_MALFORMED */
export async function openRegular(path: string, name: string): Promise<FileHandle> {
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === "ENOENT" || errno === "ENOTDIR") throw notHere(name, cause);
    if (errno === "ELOOP")
      throw new TinderboxError("IMAGE_MALFORMED", `${name} is a symbolic link`, { cause });
    throw new TinderboxError("IMAGE_MALFORMED", `${name}: ${TinderboxError.from(cause).message}`, { cause });
  }
  if ((await file.stat()).isFile()) return file;
  await file.close();
  throw new TinderboxError("IMAGE_MALFORMED", `${name} is not a regular file`);
}

/** The files of a layout that is a directory. */
export function directoryFiles(directory: string): LayoutFiles {
  return (name) => openRegular(join(directory, name), name);
}

/** A small file as a whole. @throws IMAGE_MALFORMED when it is over `max` bytes */
export async function readSmall(files: LayoutFiles, name: string, max: number): Promise<Buffer> {
  await using file = await files(name);
  const bytes = Buffer.alloc(max + 1);
  let size = 0;
  for (;;) {
    const { bytesRead } = await file.read(bytes, size, bytes.length - size, size);
    size += bytesRead;
    if (size > max) throw new TinderboxError("IMAGE_MALFORMED", `${name} is over ${max} bytes`);
    if (bytesRead === 0) return bytes.subarray(0, size);
  }
}

function blobName(digest: string): string {
  const [algorithm = "", hex = ""] = digest.split(":");
  return `blobs/${algorithm}/${hex}`;
}

/** Copies an open file into a verified blob. */
async function copyBlob(file: FileHandle, blob: BlobFile, options: BlobOptions): Promise<void> {
  const buffer = Buffer.alloc(1 << 20);
  for (;;) {
    options.signal.throwIfAborted();
    const { bytesRead } = await file.read(buffer, 0, buffer.length, blob.size);
    if (bytesRead === 0) return;
    await blob.append(buffer.subarray(0, bytesRead));
    options.onBytes?.(blob.size);
  }
}

/** Blobs by digest, from a layout's files. */
export function layoutOrigin(files: LayoutFiles): ImageOrigin {
  return {
    async manifest(digest: string): Promise<ManifestBytes> {
      const bytes = await readSmall(files, blobName(digest), maxManifestBytes);
      const actual = digestOf(bytes, digest);
      if (actual !== digest)
        throw new TinderboxError("IMAGE_DIGEST", `manifest ${digest} has the digest ${actual}`);
      return { bytes, mediaType: "", digest };
    },
    async blob(descriptor: Descriptor, path: string, options: BlobOptions): Promise<void> {
      await using file = await files(blobName(descriptor.digest));
      try {
        await using blob = await BlobFile.create(descriptor, path);
        await copyBlob(file, blob, options);
        blob.verify();
      } catch (cause) {
        await rm(path, { force: true });
        throw cause;
      }
    },
  };
}

const layoutSchema = v.object({ imageLayoutVersion: v.literal("1.0.0", "must be 1.0.0") });
const indexSchema = v.object({
  manifests: v.pipe(
    v.array(
      v.object({
        digest: v.pipe(
          v.string(),
          v.regex(/^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/, "must be a digest"),
        ),
        annotations: v.optional(v.record(v.string(), v.string()), {}),
        platform: v.optional(v.object({ architecture: v.string(), os: v.string() })),
      }),
    ),
    v.maxLength(1024),
  ),
});

export type LayoutImage = {
  readonly digest: string;
  /** What the layout calls it: a tag, or a whole name; "" for nothing */
  readonly names: readonly string[];
};

function fits(platform: Platform | undefined): boolean {
  return platform?.os === "linux" && platform.architecture === ownArchitecture;
}

/** The image that `reference` names in the layout; "" is the only one, or the only one for this machine. @throws NOT_FOUND, INVALID, IMAGE_MALFORMED */
export async function findInLayout(files: LayoutFiles, reference: string): Promise<LayoutImage> {
  parseJson(layoutSchema, await readSmall(files, "oci-layout", 4096), "oci-layout");
  const { manifests } = parseJson(
    indexSchema,
    await readSmall(files, "index.json", maxManifestBytes),
    "index.json",
  );
  const images = manifests.map(({ digest, annotations, platform }) => ({
    digest,
    platform,
    names: ["io.containerd.image.name", "org.opencontainers.image.ref.name"].flatMap(
      (key) => annotations[key] ?? [],
    ),
  }));
  const named = reference === "" ? images : images.filter(({ names }) => names.includes(reference));
  const chosen = named.length === 1 ? named : named.filter(({ platform }) => fits(platform));
  const [image] = chosen;
  if (image !== undefined && chosen.length === 1) return image;
  const known = [...new Set(images.flatMap(({ names }) => names.at(-1) ?? []))].slice(0, 20).join(", ");
  const has = known === "" ? "it names none" : `it has ${known}`;
  if (reference !== "" && named.length === 0)
    throw new TinderboxError("NOT_FOUND", `no image ${JSON.stringify(reference)} in there: ${has}`);
  throw new TinderboxError("INVALID", `${named.length} images are in there, name one of them: ${has}`);
}
