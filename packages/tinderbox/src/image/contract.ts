/** What the rest of the node software knows of images. `image/image-service.ts` implements it. */
import type { LocalSource } from "./local-source.ts";

/** `sha256:` and 64 hex digits. */
export type Digest = string & { readonly __brand: "Digest" };

export type ImageConfig = {
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
  readonly stopSignal: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly volumes: readonly string[];
};

export type Image = {
  /** Digest of the image's config blob: the image id everywhere */
  readonly id: Digest;
  /** Names as asked for, normalised: `docker.io/library/alpine:latest` */
  readonly repoTags: readonly string[];
  /** `docker.io/library/alpine@sha256:...` */
  readonly repoDigests: readonly string[];
  /** Not for garbage collection, by the operator's word */
  readonly isPinned: boolean;
  /** Size of the block image file, bytes; > 0 */
  readonly sizeBytes: number;
  readonly config: ImageConfig;
  /** The read-only file system image file, absolute */
  readonly blockPath: string;
  readonly fsType: "squashfs" | "erofs";
  /** For hosts that resolve USER names: the image's /etc/passwd and /etc/group, bounded */
  readonly passwd: string;
  readonly group: string;
};

export type RegistryAuth =
  | { readonly kind: "basic"; readonly username: string; readonly password: string }
  | { readonly kind: "identity-token"; readonly token: string }
  | { readonly kind: "registry-token"; readonly token: string };

export type PullProgress =
  | {
      readonly kind: "resolved";
      readonly digest: string;
      readonly layers: readonly { digest: string; sizeBytes: number }[];
    }
  | {
      readonly kind: "layer";
      readonly digest: string;
      readonly doneBytes: number;
      readonly sizeBytes: number;
    }
  | { readonly kind: "converting"; readonly doneLayers: number; readonly layers: number };

export type PullOptions = {
  readonly auth?: RegistryAuth;
  /** The registry that `auth` is for, as the request names it. @default "", the image's own */
  readonly authServer?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: PullProgress) => void;
};

export type ImageFsUsage = {
  readonly mountpoint: string;
  readonly usedBytes: number;
  readonly inodesUsed: number;
};

/** The image store of a node. All methods are safe to call at the same time. */
export type ImageService = {
  /** Pulls by tag, digest or both; a short name by the operator's rules. @throws IMAGE_REFERENCE, SIGNATURE, REGISTRY, REGISTRY_AUTH, IMAGE_DIGEST, IMAGE_MALFORMED, IMAGE_PLATFORM, NOT_FOUND */
  pull(reference: string, options?: PullOptions): Promise<Image>;
  /**
   * Brings an image from files on this host (local-source.ts), under `name`, or "" for what the source calls it.
   * Only for callers who may read those files themselves. @throws as `pull`, and INVALID for a source with several images
   */
  importLocal(source: LocalSource, name: string, options?: PullOptions): Promise<Image>;
  /** By name, name@digest, id, or unique id prefix. @throws IMAGE_REFERENCE for a short name that could be several */
  get(reference: string): Image | undefined;
  /**
   * Whether a container may be made of an image here, asked for as `name` (or by an id): by the policy of now, and the
   * signatures that came with the image. @throws SIGNATURE
   */
  checkPolicy(id: Digest, name: string): void;
  list(): readonly Image[];
  /** Removes the image with all its names; a missing one is fine. Its file goes when its last user releases it. */
  remove(reference: string): Promise<void>;
  /** Keeps the block file until `release`, whatever is removed; NOT_FOUND when it is not whole any more. `owner` is a container or sandbox id; idempotent by owner. */
  hold(id: Digest, owner: string): Image;
  release(id: Digest, owner: string): Promise<void>;
  /** After a restart: owners that do not exist any more are released. */
  reconcileHolders(owners: ReadonlySet<string>): Promise<void>;
  usage(): Promise<ImageFsUsage>;
  close(): Promise<void>;
};
