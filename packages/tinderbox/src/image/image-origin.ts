/** Where an image's manifest and blobs come from: a registry, or files on disk. */

export type Descriptor = { readonly mediaType: string; readonly digest: string; readonly size: number };

export type ManifestBytes = {
  readonly bytes: Buffer;
  readonly mediaType: string;
  readonly digest: string;
};

export type BlobOptions = {
  readonly signal: AbortSignal;
  /** Told how many bytes are there */
  readonly onBytes?: (done: number) => void;
};

export const maxManifestBytes: number = 4 << 20;

export type ImageOrigin = {
  /** A manifest by digest (checked), or by tag. @throws NOT_FOUND, IMAGE_DIGEST, IMAGE_MALFORMED and the origin's own */
  manifest(which: string): Promise<ManifestBytes>;
  /** Copies a blob to `path`, which is there afterwards only if digest and size are right. */
  blob(descriptor: Descriptor, path: string, options: BlobOptions): Promise<void>;
};
