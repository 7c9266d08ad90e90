/** What `docker save` writes, as an origin of images: manifest.json names a config and layers by their file in the archive. */
import { link, rm } from "node:fs/promises";
import * as v from "valibot";
import { TinderboxError } from "../base/errors.ts";
import type { ArchiveFile, ArchiveFiles } from "./archive-files.ts";
import { type Descriptor, type ImageOrigin, maxManifestBytes } from "./image-origin.ts";
import { parseJson } from "./manifest.ts";
import { readSmall } from "./oci-layout.ts";
import { nameOf, parseReference } from "./reference.ts";
import { digestOf } from "./verified-copy.ts";

const manifestSchema = v.pipe(
  v.array(
    v.object({
      Config: v.string(),
      RepoTags: v.nullish(v.array(v.string())),
      Layers: v.pipe(v.array(v.string()), v.maxLength(256)),
    }),
  ),
  v.maxLength(1024),
);

function normalName(text: string): string {
  const reference = parseReference(text);
  return `${nameOf(reference)}:${reference.tag ?? "latest"}`;
}

/** The image that `reference` names in the archive ("" is the only one), with its tags. @throws NOT_FOUND, INVALID, IMAGE_MALFORMED */
export async function findInDockerArchive(
  files: ArchiveFiles,
  reference: string,
): Promise<{ readonly origin: ImageOrigin; readonly digest: string; readonly names: readonly string[] }> {
  const bytes = await readSmall((name) => files.open(name), "manifest.json", maxManifestBytes);
  const images = parseJson(manifestSchema, bytes, "manifest.json").map((image) => ({
    ...image,
    names: (image.RepoTags ?? []).map(normalName),
  }));
  const wanted = reference === "" ? "" : normalName(reference);
  const named = wanted === "" ? images : images.filter(({ names }) => names.includes(wanted));
  const [image] = named;
  const has =
    images
      .flatMap(({ names }) => names)
      .slice(0, 20)
      .join(", ") || "it names none";
  if (image === undefined)
    throw new TinderboxError("NOT_FOUND", `no image ${JSON.stringify(reference)} in there: it has ${has}`);
  if (named.length > 1)
    throw new TinderboxError("INVALID", `${named.length} images are in there, name one of them: ${has}`);
  const blobs = new Map<string, ArchiveFile>();
  const describe = (name: string): Descriptor => {
    const file = files.find(name);
    blobs.set(file.digest, file);
    return { mediaType: "", digest: file.digest, size: file.size };
  };
  const manifest = { config: describe(image.Config), layers: image.Layers.map(describe) };
  const manifestBytes = Buffer.from(JSON.stringify(manifest));
  const digest = digestOf(manifestBytes);
  const origin: ImageOrigin = {
    manifest: async () => ({ bytes: manifestBytes, mediaType: "", digest }),
    blob: async (descriptor, path, { signal, onBytes }) => {
      // Hashed when it was unpacked into this private directory, and found by that digest.
      const file = blobs.get(descriptor.digest);
      if (file === undefined) throw new TinderboxError("NOT_FOUND", `blob ${descriptor.digest} is not there`);
      try {
        await link(file.path, path);
        signal.throwIfAborted();
        onBytes?.(file.size);
      } catch (cause) {
        await rm(path, { force: true });
        throw cause;
      }
    },
  };
  return { origin, digest, names: image.names };
}
