/** OCI image layouts as directories, made of whatever a test wants in them. */
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type Blob = { readonly mediaType: string; readonly digest: string; readonly size: number };

export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

export const mediaTypes = {
  manifest: "application/vnd.oci.image.manifest.v1+json",
  index: "application/vnd.oci.image.index.v1+json",
  config: "application/vnd.oci.image.config.v1+json",
  tar: "application/vnd.oci.image.layer.v1.tar",
} as const;

export const ownArchitecture: string = process.arch === "x64" ? "amd64" : process.arch;

/** Writes a blob below `directory` and describes it. */
export function addBlob(directory: string, mediaType: string, bytes: Uint8Array): Blob {
  const digest = sha256(bytes);
  mkdirSync(join(directory, "blobs/sha256"), { recursive: true });
  writeFileSync(join(directory, "blobs/sha256", digest.slice("sha256:".length)), bytes);
  return { mediaType, digest, size: bytes.length };
}

export type LayoutImage = {
  /** As they are in the layout; `diffIds` tells what they unpack to when they are compressed */
  readonly layers: readonly Uint8Array[];
  readonly diffIds?: readonly string[];
  readonly config?: object;
  readonly architecture?: string;
};

/** Adds an image's blobs; its manifest's descriptor. */
export function addImage(directory: string, image: LayoutImage): Blob {
  const config = addBlob(
    directory,
    mediaTypes.config,
    Buffer.from(
      JSON.stringify({
        architecture: image.architecture ?? ownArchitecture,
        os: "linux",
        config: image.config ?? {},
        rootfs: { type: "layers", diff_ids: image.diffIds ?? image.layers.map(sha256) },
      }),
    ),
  );
  const layers = image.layers.map((layer) => addBlob(directory, mediaTypes.tar, layer));
  const manifest = { schemaVersion: 2, mediaType: mediaTypes.manifest, config, layers };
  return addBlob(directory, mediaTypes.manifest, Buffer.from(JSON.stringify(manifest)));
}

/** Makes the directory a layout whose index holds `manifests`. */
export function writeIndex(directory: string, manifests: readonly object[]): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  writeFileSync(join(directory, "index.json"), JSON.stringify({ schemaVersion: 2, manifests }));
}

/** A layout with one image under `tag`. */
export function writeLayout(directory: string, tag: string, image: LayoutImage): Blob {
  const manifest = addImage(directory, image);
  writeIndex(directory, [{ ...manifest, annotations: { "org.opencontainers.image.ref.name": tag } }]);
  return manifest;
}
