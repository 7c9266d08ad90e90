/** The image store of a node: pulls, keeps one block image each, removes what nobody holds. See contract.ts. */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { unpackArchive } from "./archive-files.ts";
import { makeBlockImage } from "./block-image.ts";
import type { Digest, Image, ImageFsUsage, ImageService, PullOptions } from "./contract.ts";
import { findInDockerArchive } from "./docker-archive.ts";
import type { ImageOrigin } from "./image-origin.ts";
import { ImageStore } from "./image-store.ts";
import { formatLocalSource, type LocalSource, localName } from "./local-source.ts";
import { type Manifest, parseConfig, parseManifest } from "./manifest.ts";
import { directoryFiles, findInLayout, layoutOrigin } from "./oci-layout.ts";
import { nameOf, parseReference, type Reference } from "./reference.ts";
import { type Patience, RegistryClient } from "./registry-client.ts";

export type ImageServiceOptions = {
  readonly root: string;
  readonly registries: ReadonlyMap<string, { readonly mirrors: readonly string[] }>;
  readonly logger: Logger;
  /** @default defaultPatience of registry-client.ts */
  readonly patience?: Patience;
};

const parallelDownloads = 4;

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
      const done = this.#pull(reference, { ...options, signal: stop.signal });
      const own = { done, stop, waiters: 0 };
      shared = own;
      this.#pulls.set(key, own);
      const forget = (): void => {
        if (this.#pulls.get(key) === own) this.#pulls.delete(key);
      };
      stop.signal.addEventListener("abort", forget, { once: true });
      void done.then(forget, forget);
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
    const { signal } = options;
    const client = new RegistryClient(reference, {
      mirrors: this.#options.registries.get(reference.registry)?.mirrors ?? [],
      auth: options.auth,
      signal,
      ...(this.#options.patience && { patience: this.#options.patience }),
    });
    return await this.#inWorkDirectory(async (work) => {
      const which = reference.digest ?? reference.tag ?? "latest";
      return await this.#bring(client, which, work, options, (digest) => [
        ...(reference.tag === undefined ? [] : [`${nameOf(reference)}:${reference.tag}`]),
        `${nameOf(reference)}@${digest}`,
      ]);
    });
  }

  async importLocal(source: LocalSource, name: string, options: PullOptions = {}): Promise<Image> {
    const signal = options.signal ?? new AbortController().signal;
    const { path, transport } = source;
    const given = name === "" ? undefined : parseReference(name);
    const tagOf = (reference: Reference): string => `${nameOf(reference)}:${reference.tag ?? "latest"}`;
    try {
      return await this.#inWorkDirectory(async (work) => {
        const withSignal = { ...options, signal };
        if (transport === "docker-archive") {
          const files = await unpackArchive(path, work, signal);
          const { origin, digest, names } = await findInDockerArchive(files, source.reference);
          const own = names.length > 0 ? names : [tagOf(localName(path, ""))];
          // An archive of docker has no manifest of which others would know the digest.
          return await this.#bring(origin, digest, work, withSignal, () => (given ? [tagOf(given)] : own));
        }
        let files = directoryFiles(path);
        if (transport === "oci-archive") {
          const unpacked = await unpackArchive(path, work, signal);
          files = (file) => unpacked.open(file);
        }
        const { digest, names } = await findInLayout(files, source.reference);
        const reference = given ?? localName(path, names[0] ?? "");
        return await this.#bring(layoutOrigin(files), digest, work, withSignal, () => [
          tagOf(reference),
          `${nameOf(reference)}@${digest}`,
        ]);
      });
    } catch (cause) {
      signal.throwIfAborted();
      const error = TinderboxError.from(cause);
      throw new TinderboxError(error.code, `${formatLocalSource(source)}: ${error.message}`, {
        cause,
        ...(error.hint !== undefined && { hint: error.hint }),
      });
    }
  }

  /** A directory for one pull, gone after it. A full disk is told as such. */
  async #inWorkDirectory<T>(use: (directory: string) => Promise<T>): Promise<T> {
    let work: string | undefined;
    try {
      work = await mkdtemp(join(this.#directory, "ingest", "pull-"));
      return await use(work);
    } catch (cause) {
      if (isDiskFull(cause))
        throw new TinderboxError("LIMIT", `${this.#directory}: no space left on the device`, {
          cause,
          hint: "remove images that are not used: tinderbox rmi",
        });
      throw cause;
    } finally {
      if (work !== undefined) await rm(work, { recursive: true, force: true });
    }
  }

  /** The image that `which` is at `origin`, brought here if it is not here yet, under its names. */
  async #bring(
    origin: ImageOrigin,
    which: string,
    work: string,
    options: PullOptions & { signal: AbortSignal },
    namesOf: (digest: string) => readonly string[],
  ): Promise<Image> {
    const top = await origin.manifest(which);
    let parsed = parseManifest(top.bytes, top.mediaType);
    if (parsed.kind === "index") {
      const inner = await origin.manifest(parsed.digest);
      parsed = parseManifest(inner.bytes, inner.mediaType);
      if (parsed.kind === "index")
        throw new TinderboxError("IMAGE_MALFORMED", "an image index inside an image index");
    }
    const { manifest } = parsed;
    const id = manifest.config.digest as Digest;
    options.onProgress?.({
      kind: "resolved",
      digest: top.digest,
      layers: manifest.layers.map((l) => ({ digest: l.digest, sizeBytes: l.size })),
    });
    while (!this.#store.has(id)) {
      const other = this.#conversions.get(id);
      if (other === undefined) {
        const own = this.#convert(id, origin, manifest, work, options);
        this.#conversions.set(id, own);
        await own.finally(() => this.#conversions.delete(id));
      } else {
        // Its fault, or that its caller has gone, is not ours: then it is our turn.
        await other.catch(() => {});
        options.signal.throwIfAborted();
      }
    }
    this.#store.name(id, ...namesOf(top.digest));
    const image = this.#store.byId(id);
    if (!image) throw new TinderboxError("ABORTED", `image ${id} was removed while it was pulled`);
    return image;
  }

  async #convert(
    id: Digest,
    origin: ImageOrigin,
    manifest: Manifest,
    work: string,
    { signal, onProgress }: PullOptions & { signal: AbortSignal },
  ): Promise<void> {
    const configPath = join(work, "config");
    await origin.blob(manifest.config, configPath, { signal });
    const { config, diffIds } = parseConfig(await readFile(configPath), manifest.layers.length);
    const pathOf = (digest: string): string => join(work, digest.replace(":", "-"));
    // The first failure stops the other downloads before the directory goes.
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    const todo = [...new Map(manifest.layers.map((layer) => [layer.digest, layer])).values()];
    const fetchSome = async (): Promise<void> => {
      for (let layer = todo.pop(); layer !== undefined; layer = todo.pop()) {
        const { digest, size } = layer;
        const onBytes = (doneBytes: number): void =>
          onProgress?.({ kind: "layer", digest, doneBytes, sizeBytes: size });
        await origin.blob(layer, pathOf(digest), { signal: either, onBytes });
      }
    };
    const workers = Array.from({ length: parallelDownloads }, () =>
      fetchSome().catch((cause: unknown) => stop.abort(cause)),
    );
    await Promise.all(workers);
    signal.throwIfAborted();
    if (stop.signal.aborted) throw stop.signal.reason;
    const count = manifest.layers.length;
    onProgress?.({ kind: "converting", doneLayers: 0, layers: count });
    const layers = manifest.layers.map((layer, n) => ({
      path: pathOf(layer.digest),
      diffId: diffIds[n] ?? "",
    }));
    const made = await makeBlockImage(layers, this.#store.blockPath(id), signal);
    this.#store.insert({ id, sizeBytes: made.sizeBytes, config, passwd: made.passwd, group: made.group });
    onProgress?.({ kind: "converting", doneLayers: count, layers: count });
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

function isDiskFull(cause: unknown): boolean {
  const errno = errnoOf(cause) ?? "";
  if (errno === "ENOSPC" || errno === "EDQUOT") return true;
  // sqfstar says it in words.
  if (!(cause instanceof Error)) return false;
  return /No space left on device|Disk quota exceeded/.test(cause.message) || isDiskFull(cause.cause);
}

/** Opens the store below `root`; removes what an interrupted pull left. */
export async function openImageService(options: ImageServiceOptions): Promise<ImageService> {
  const directory = join(options.root, "images");
  await mkdir(join(directory, "blocks"), { recursive: true, mode: 0o700 });
  await rm(join(directory, "ingest"), { recursive: true, force: true });
  await mkdir(join(directory, "ingest"), { mode: 0o700 });
  const store = new ImageStore(directory);
  // Of a pull that ended between its file and its names.
  for (const id of store.ids()) store.dropUnused(id);
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
