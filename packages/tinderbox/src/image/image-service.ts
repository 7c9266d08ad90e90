/** The image store of a node: pulls, keeps one block image each, removes what nobody holds. See contract.ts. */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { makeBlockImage } from "./block-image.ts";
import type { Digest, Image, ImageFsUsage, ImageService, PullOptions } from "./contract.ts";
import { ImageStore } from "./image-store.ts";
import { parseConfig, parseManifest } from "./manifest.ts";
import { nameOf, parseReference, type Reference } from "./reference.ts";
import { RegistryClient } from "./registry-client.ts";

export type ImageServiceOptions = {
  readonly root: string;
  readonly registries: ReadonlyMap<string, { readonly mirrors: readonly string[] }>;
  readonly logger: Logger;
};

/** One pull that several callers may wait for; it ends when the last of them has gone. */
type SharedPull = { readonly done: Promise<Image>; readonly stop: AbortController; waiters: number };

class Images implements ImageService {
  readonly #options: ImageServiceOptions;
  readonly #store: ImageStore;
  readonly #directory: string;
  readonly #pulls = new Map<string, SharedPull>();
  /** Conversions by image id: two names of one image convert once */
  readonly #conversions = new Map<string, Promise<void>>();

  constructor(options: ImageServiceOptions, store: ImageStore) {
    this.#options = options;
    this.#store = store;
    this.#directory = join(options.root, "images");
  }

  async pull(text: string, options: PullOptions = {}): Promise<Image> {
    const reference = parseReference(text);
    const key = JSON.stringify([reference, options.auth ?? null]);
    let shared = this.#pulls.get(key);
    if (!shared) {
      const stop = new AbortController();
      const done = this.#pull(reference, { ...options, signal: stop.signal }).finally(() =>
        this.#pulls.delete(key),
      );
      done.catch(() => {});
      shared = { done, stop, waiters: 0 };
      this.#pulls.set(key, shared);
    }
    const pull = shared;
    pull.waiters++;
    const signal = options.signal;
    let onAbort = (): void => {};
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () => reject(TinderboxError.from(signal?.reason, "ABORTED"));
      if (signal?.aborted) onAbort();
      else signal?.addEventListener("abort", onAbort, { once: true });
    });
    try {
      return await Promise.race([pull.done, aborted]);
    } finally {
      signal?.removeEventListener("abort", onAbort);
      if (--pull.waiters === 0)
        pull.stop.abort(new TinderboxError("ABORTED", `pull of ${text} was given up`));
    }
  }

  async #pull(reference: Reference, options: PullOptions & { signal: AbortSignal }): Promise<Image> {
    const { signal, onProgress } = options;
    const client = new RegistryClient(reference, {
      mirrors: this.#options.registries.get(reference.registry)?.mirrors ?? [],
      auth: options.auth,
      signal,
    });
    const top = await client.manifest(reference.digest ?? reference.tag ?? "latest");
    let parsed = parseManifest(top.bytes, top.mediaType);
    if (parsed.kind === "index") {
      const inner = await client.manifest(parsed.digest);
      parsed = parseManifest(inner.bytes, inner.mediaType);
      if (parsed.kind === "index")
        throw new TinderboxError("IMAGE_MALFORMED", "an image index inside an image index");
    }
    const { manifest } = parsed;
    const id = manifest.config.digest as Digest;
    onProgress?.({
      kind: "resolved",
      digest: top.digest,
      layers: manifest.layers.map((l) => ({ digest: l.digest, sizeBytes: l.size })),
    });
    const names = {
      tag: reference.tag === undefined ? undefined : `${nameOf(reference)}:${reference.tag}`,
      digest: `${nameOf(reference)}@${top.digest}`,
    };
    if (!this.#store.has(id)) {
      let conversion = this.#conversions.get(id);
      if (!conversion) {
        conversion = this.#convert(id, client, manifest, options).finally(() => this.#conversions.delete(id));
        this.#conversions.set(id, conversion);
      }
      await conversion;
    }
    this.#store.name(id, names.tag, names.digest);
    const image = this.#store.byId(id);
    if (!image) throw new TinderboxError("ABORTED", `image ${id} was removed while it was pulled`);
    return image;
  }

  async #convert(
    id: Digest,
    client: RegistryClient,
    manifest: {
      config: { digest: string; size: number; mediaType: string };
      layers: readonly { digest: string; size: number; mediaType: string }[];
    },
    { signal, onProgress }: PullOptions & { signal: AbortSignal },
  ): Promise<void> {
    const work = await mkdtemp(join(this.#directory, "ingest", "pull-"));
    try {
      const configPath = join(work, "config");
      await client.blob(manifest.config, configPath, () => {});
      const { config, diffIds } = parseConfig(await readFile(configPath), manifest.layers.length);
      const unique = new Map(manifest.layers.map((layer) => [layer.digest, layer]));
      const pathOf = (digest: string): string => join(work, digest.replace(":", "-"));
      // The first failure stops the other downloads before the directory goes.
      const stop = new AbortController();
      const downloads = [...unique.values()].map((layer) =>
        client
          .blob(layer, pathOf(layer.digest), (doneBytes) => {
            stop.signal.throwIfAborted();
            onProgress?.({ kind: "layer", digest: layer.digest, doneBytes, sizeBytes: layer.size });
          })
          .catch((cause: unknown) => {
            stop.abort(cause);
            throw cause;
          }),
      );
      const results = await Promise.allSettled(downloads);
      if (stop.signal.aborted) throw stop.signal.reason;
      for (const result of results) if (result.status === "rejected") throw result.reason;
      onProgress?.({ kind: "converting", doneLayers: 0, layers: manifest.layers.length });
      const layers = manifest.layers.map((layer, n) => ({
        path: pathOf(layer.digest),
        diffId: diffIds[n] ?? "",
      }));
      const blockPath = this.#store.blockPath(id);
      const made = await makeBlockImage(layers, blockPath, signal);
      this.#store.insert({ id, sizeBytes: made.sizeBytes, config, passwd: made.passwd, group: made.group });
      onProgress?.({
        kind: "converting",
        doneLayers: manifest.layers.length,
        layers: manifest.layers.length,
      });
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }

  importPath(path: string): Promise<Image> {
    return Promise.reject(
      new TinderboxError("UNSUPPORTED", `import of ${path}: images on disk cannot be imported yet`, {
        hint: "push it to a registry and pull it from there",
      }),
    );
  }

  get(text: string): Image | undefined {
    const byId = this.#store.byIdPrefix(text);
    if (byId) return byId;
    let reference: Reference;
    try {
      reference = parseReference(text);
    } catch {
      return undefined;
    }
    const name = nameOf(reference);
    return reference.digest === undefined
      ? this.#store.byName(`${name}:${reference.tag}`)
      : this.#store.byName(`${name}@${reference.digest}`);
  }

  list(): readonly Image[] {
    return this.#store.list();
  }

  async remove(reference: string): Promise<void> {
    const image = this.get(reference);
    if (!image) return;
    this.#store.forget(image.id);
    await this.#collect(image.id);
  }

  hold(id: Digest, owner: string): Image {
    return this.#store.hold(id, owner);
  }

  async release(id: Digest, owner: string): Promise<void> {
    this.#store.release(id, owner);
    await this.#collect(id);
  }

  async reconcileHolders(owners: ReadonlySet<string>): Promise<void> {
    for (const { id, owner } of this.#store.holders()) if (!owners.has(owner)) await this.release(id, owner);
  }

  async #collect(id: Digest): Promise<void> {
    if (this.#store.dropUnused(id)) await rm(this.#store.blockPath(id), { force: true });
  }

  async usage(): Promise<ImageFsUsage> {
    let usedBytes = 0;
    let inodesUsed = 0;
    for (const entry of await readdir(join(this.#directory, "blocks"))) {
      const info = await stat(join(this.#directory, "blocks", entry)).catch((cause) => {
        if (errnoOf(cause) === "ENOENT") return undefined;
        throw cause;
      });
      if (!info) continue;
      usedBytes += info.blocks * 512;
      inodesUsed++;
    }
    return { mountpoint: this.#directory, usedBytes, inodesUsed };
  }

  async close(): Promise<void> {
    for (const pull of this.#pulls.values())
      pull.stop.abort(new TinderboxError("ABORTED", "the daemon stops"));
    await Promise.allSettled([...this.#pulls.values()].map((pull) => pull.done));
    this.#store.close();
  }
}

/** Opens the store below `root`; removes what an interrupted pull left. */
export async function openImageService(options: ImageServiceOptions): Promise<ImageService> {
  const directory = join(options.root, "images");
  await mkdir(join(directory, "blocks"), { recursive: true, mode: 0o700 });
  await rm(join(directory, "ingest"), { recursive: true, force: true });
  await mkdir(join(directory, "ingest"), { mode: 0o700 });
  const store = new ImageStore(directory);
  const known = new Set(store.list().map((image) => image.blockPath));
  for (const entry of await readdir(join(directory, "blocks"))) {
    const path = join(directory, "blocks", entry);
    if (!known.has(path) && !store.isHeldPath(path)) await rm(path, { force: true });
  }
  for (const image of store.list()) {
    if (existsSync(image.blockPath)) continue;
    options.logger.warn("image file is gone; pull the image again", { image: image.id });
    store.forget(image.id);
    store.dropUnused(image.id);
  }
  return new Images(options, store);
}
