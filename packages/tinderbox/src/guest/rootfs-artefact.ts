/**
 * `rootfs.ext4` beside a guest's kernel, from what a person names: `busybox`, `debian:SUITE`, a tar archive, or an image
 * of a registry or on disk. What it was made of is written beside it, so the same source is not made twice.
 */
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import { writeFileAtomic } from "../base/write-file.ts";
import { openImageService } from "../image/image-service.ts";
import { parseLocalSource } from "../image/local-source.ts";
import { packageCacheDirectory } from "./build-guest.ts";
import { buildRootfs, type RootfsSource } from "./build-rootfs.ts";
import type { GuestProgress } from "./guest-progress.ts";
import { loadStaticBusybox } from "./static-busybox.ts";

/** Raised when the same source shall give other bytes. */
const recipeVersion = 2;

/** What `buildRootfsArtefact` is asked for. */
export type RootfsArtefactOptions = {
  /** `busybox`, `debian:SUITE`, the path of a tar archive (it has a `/`), or an image as `tinderbox pull` takes it */
  readonly source: string;
  /** The file is `rootfs.ext4` in here */
  readonly outputDir: string;
  /** @default what the content needs, and some */
  readonly sizeMib?: number;
  /** Becomes /sbin/init */
  readonly init?: string;
  /** Debian packages beside the essential ones; for `debian:SUITE` */
  readonly packages?: readonly string[];
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: GuestProgress) => void;
};

export type RootfsArtefact = { readonly rootfs: string; readonly reused: boolean };

async function fileIdentity(path: string): Promise<string> {
  const { size, mtimeMs, ino } = await stat(path);
  return `${path} ${size} ${mtimeMs} ${ino}`;
}

/** Calls `use` with what the rootfs is made of and what tells it from others; undefined: that cannot be told. */
async function withSource<T>(
  options: RootfsArtefactOptions,
  use: (source: RootfsSource, identity: string | undefined) => Promise<T>,
): Promise<T> {
  const { source, outputDir, signal } = options;
  const packages = options.packages ?? [];
  if (source.startsWith("debian:"))
    return await use({ kind: "debian-suite", suite: source.slice("debian:".length), packages }, undefined);
  if (packages.length > 0) {
    throw new TinderboxError("INVALID", `packages ${packages.join(",")}: only a debian:SUITE has packages`, {
      hint: "tinderbox guest build --rootfs debian:bookworm --packages curl",
    });
  }
  if (source === "busybox") {
    const busybox = await loadStaticBusybox(packageCacheDirectory, signal);
    return await use({ kind: "busybox" }, createHash("sha256").update(busybox).digest("hex"));
  }
  if (/^[./]/.test(source)) {
    const path = resolve(source);
    return await use({ kind: "tar", path }, await fileIdentity(path));
  }
  const root = await mkdtemp(join(outputDir, ".image-"));
  try {
    const images = await openImageService({
      root,
      logger: createLogger({ level: "warn", format: "text" }),
    });
    options.onProgress?.({ step: "rootfs", message: `pulling ${source}` });
    const local = parseLocalSource(source);
    const image = local
      ? await images.importLocal({ ...local, path: resolve(local.path) }, "", signal ? { signal } : {})
      : await images.pull(source, signal ? { signal } : {});
    try {
      return await use({ kind: "squashfs", path: image.blockPath }, image.id);
    } finally {
      await images.close();
    }
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

/** Makes `rootfs.ext4`, or finds that it was made of the same already. @throws {TinderboxError} as `buildRootfs` */
export async function buildRootfsArtefact(options: RootfsArtefactOptions): Promise<RootfsArtefact> {
  const rootfs = join(resolve(options.outputDir), "rootfs.ext4");
  const record = `${rootfs}.json`;
  return await withSource(options, async (source, identity) => {
    const init = options.init === undefined ? "" : await fileIdentity(resolve(options.init));
    const inputs = JSON.stringify([recipeVersion, source.kind, identity, options.sizeMib ?? 0, init]);
    const was = await readFile(record, "utf8").catch(() => "");
    const isThere = await stat(rootfs).then(
      () => true,
      () => false,
    );
    if (identity !== undefined && was === inputs && isThere) return { rootfs, reused: true };
    await rm(record, { force: true });
    await buildRootfs({
      source,
      output: rootfs,
      ...(options.sizeMib === undefined ? {} : { sizeMib: options.sizeMib }),
      ...(options.init === undefined ? {} : { init: options.init }),
      ...(options.signal && { signal: options.signal }),
      ...(options.onProgress && { onProgress: options.onProgress }),
    });
    await writeFileAtomic(record, inputs, 0o644);
    return { rootfs, reused: false };
  });
}
