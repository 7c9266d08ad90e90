/** The image store of a node: pulls, keeps one block image each, removes what nobody holds. See contract.ts. */
import { rmSync } from "node:fs";
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { damageOf } from "./block-health.ts";
import type { Digest, Image, ImageFsUsage, ImageService, PullOptions } from "./contract.ts";
import { fetchImage } from "./fetch-image.ts";
import { defaultImageSettings, type ImageSettings, isPinned } from "./image-settings.ts";
import { type ImageSource, localImage, registryFor, registrySource, withSource } from "./image-source.ts";
import { ImageStore } from "./image-store.ts";
import type { LocalSource } from "./local-source.ts";
import { parseManifest } from "./manifest.ts";
import { nameOf, parseReference, type Reference } from "./reference.ts";
import type { Patience } from "./registry-client.ts";
import { SharedPulls } from "./shared-pulls.ts";
import { resolveNames } from "./short-names.ts";
import { checkPolicy, isAccepted } from "./signature-policy.ts";
import { digestOf } from "./verified-copy.ts";
import { inWorkDirectory } from "./work-directory.ts";

export type ImageServiceOptions = {
  readonly root: string;
  /** The operator's, asked for at each use: they may change. @default defaultImageSettings */
  readonly settings?: () => ImageSettings;
  readonly logger: Logger;
  /** @default defaultPatience of registry-client.ts with the settings' `stallMs` */
  readonly patience?: Patience;
};

/** With these another registry may still have the image that a short name means. */
const elsewhere: readonly string[] = ["NOT_FOUND", "REGISTRY", "REGISTRY_AUTH"];

class Images implements ImageService {
  readonly #options: ImageServiceOptions;
  readonly #store: ImageStore;
  readonly #directory: string;
  readonly #pulls = new SharedPulls((reference, options) => this.#pull(reference, options));
  /** Conversions by image id: two names of one image convert once */
  readonly #conversions = new Map<string, Promise<void>>();

  constructor(options: ImageServiceOptions, store: ImageStore) {
    this.#options = options;
    this.#store = store;
    this.#directory = join(options.root, "images");
  }

  get #settings(): ImageSettings {
    return this.#options.settings?.() ?? defaultImageSettings;
  }

  async pull(text: string, options: PullOptions = {}): Promise<Image> {
    const candidates = resolveNames(text, this.#settings.shortNames);
    // A secret that names no registry is not tried at one after the other.
    const isAmbiguous = candidates.length > 1 && (options.authServer ?? "") === "";
    const { auth, authServer, ...others } = options;
    const given = isAmbiguous ? others : options;
    const faults: TinderboxError[] = [];
    for (const reference of candidates) {
      try {
        return await this.#pulls.pull(reference, given);
      } catch (cause) {
        const fault = TinderboxError.from(cause);
        if (candidates.length === 1 || !elsewhere.includes(fault.code)) throw cause;
        faults.push(fault);
      }
    }
    const codes = new Set(faults.map(({ code }) => code));
    throw new TinderboxError(
      codes.size === 1 ? (faults[0]?.code ?? "NOT_FOUND") : "REGISTRY",
      `image ${JSON.stringify(text)}: ${faults.map(({ message }) => message).join("; ")}`,
    );
  }

  async #pull(reference: Reference, options: PullOptions & { signal: AbortSignal }): Promise<Image> {
    const settings = this.#settings;
    const client = registryFor(reference, options, settings, this.#options.patience);
    return await inWorkDirectory(this.#directory, (work) =>
      this.#bring(registrySource(client, reference, settings.policy, work, options.signal), work, options),
    );
  }

  async importLocal(source: LocalSource, name: string, options: PullOptions = {}): Promise<Image> {
    const signal = options.signal ?? new AbortController().signal;
    const { policy, shortNames } = this.#settings;
    const given = name === "" ? undefined : resolveNames(name, shortNames)[0];
    try {
      return await inWorkDirectory(this.#directory, async (work) => {
        const found = await localImage(source, given, policy, work, signal);
        return await this.#bring(found, work, { ...options, signal });
      });
    } catch (cause) {
      signal.throwIfAborted();
      throw withSource(source, cause);
    }
  }

  /** The image that is at the source, brought here if it is not here yet, under its names. */
  async #bring(
    { origin, which, naming }: ImageSource,
    work: string,
    options: PullOptions & { signal: AbortSignal },
  ): Promise<Image> {
    const top = await origin.manifest(which);
    const digests = [digestOf(top.bytes)];
    let parsed = parseManifest(top.bytes, top.mediaType);
    if (parsed.kind === "index") {
      const inner = await origin.manifest(parsed.digest);
      digests.push(digestOf(inner.bytes));
      parsed = parseManifest(inner.bytes, inner.mediaType);
      if (parsed.kind === "index")
        throw new TinderboxError("IMAGE_MALFORMED", "an image index inside an image index");
    }
    const { manifest } = parsed;
    // Of the very bytes that are gone by from here on: nothing is looked up twice.
    const signatures = await naming.signaturesOf(digests, top.digest);
    const id = manifest.config.digest as Digest;
    options.onProgress?.({
      kind: "resolved",
      digest: top.digest,
      layers: manifest.layers.map((l) => ({ digest: l.digest, sizeBytes: l.size })),
    });
    while (!this.#isWhole(id)) {
      const other = this.#conversions.get(id);
      if (other === undefined) {
        const own = fetchImage(origin, manifest, work, this.#store.blockPath(id), options).then((made) =>
          this.#store.insert({ id, ...made }),
        );
        this.#conversions.set(id, own);
        await own.finally(() => this.#conversions.delete(id));
      } else {
        // Its fault, or that its caller has gone, is not ours: then it is our turn.
        await other.catch(() => {});
        options.signal.throwIfAborted();
      }
    }
    this.#store.keepSignatures(id, signatures);
    this.#store.name(id, ...naming.namesOf(top.digest));
    const image = this.#store.byId(id);
    if (!image) throw new TinderboxError("ABORTED", `image ${id} was removed while it was pulled`);
    return image;
  }

  /** Whether the image is here and its file is as it was written; one that is not is told and can be made again. */
  #isWhole(id: Digest): boolean {
    const sizeBytes = this.#store.sizeOf(id);
    if (sizeBytes === undefined) return false;
    const damage = damageOf(this.#store.blockPath(id), sizeBytes);
    if (damage === undefined) return true;
    this.#options.logger.warn("image file is damaged; the image has to be pulled again", {
      image: id,
      damage,
    });
    return false;
  }

  get(text: string): Image | undefined {
    const byId = this.#store.byIdPrefix(text);
    if (byId) return byId;
    for (const reference of this.#namesIn(text)) {
      const found = this.#store.byName(storedName(reference));
      if (found) return found;
    }
    return undefined;
  }

  /** What `text` may be the name of; nothing for what is an id or no name at all. */
  #namesIn(text: string): readonly Reference[] {
    if (/^sha256:[0-9a-f]{64}$/.test(text)) return [];
    try {
      parseReference(text);
    } catch {
      return [];
    }
    return resolveNames(text, this.#settings.shortNames);
  }

  checkPolicy(id: Digest, name: string): void {
    const { policy } = this.#settings;
    const image = this.#store.byId(id);
    const own = [...(image?.repoTags ?? []), ...(image?.repoDigests ?? [])];
    const asked = this.#store.byIdPrefix(name)?.id === id ? [] : this.#namesIn(name);
    const known = asked.filter((reference) => own.includes(storedName(reference)));
    // By an id alone: under any name that it has here.
    const names = known.length > 0 ? known : asked.length > 0 ? asked : own.map((one) => parseReference(one));
    const signatures = this.#store.signaturesOf(id);
    const [first] = names;
    if (first === undefined || names.some((reference) => isAccepted(policy, reference, signatures))) return;
    checkPolicy(policy, first, signatures);
  }

  list(): readonly Image[] {
    return this.#store.list();
  }

  async remove(reference: string): Promise<void> {
    const image = this.get(reference);
    if (!image) return;
    this.#store.forget(image.id);
    this.#collect(image.id);
  }

  hold(id: Digest, owner: string): Image {
    if (this.#store.byId(id) !== undefined && !this.#isWhole(id)) {
      // So that a kubelet pulls it again.
      this.#store.forget(id);
      if (this.#store.dropUnused(id)) rmSync(this.#store.blockPath(id), { force: true });
      throw new TinderboxError("NOT_FOUND", `image ${id}: its file is damaged`, { hint: "Pull it again." });
    }
    return this.#store.hold(id, owner);
  }

  async release(id: Digest, owner: string): Promise<void> {
    this.#store.release(id, owner);
    this.#collect(id);
  }

  async reconcileHolders(owners: ReadonlySet<string>): Promise<void> {
    for (const { id, owner } of this.#store.holders()) if (!owners.has(owner)) await this.release(id, owner);
  }

  #collect(id: Digest): void {
    if (this.#store.dropUnused(id)) rmSync(this.#store.blockPath(id), { force: true });
  }

  async usage(): Promise<ImageFsUsage> {
    const entries = await readdir(this.#directory, { recursive: true });
    const infos = await Promise.all(
      [".", ...entries].map(async (entry) => {
        try {
          return await stat(join(this.#directory, entry));
        } catch (cause) {
          // A pull has ended meanwhile.
          if (errnoOf(cause) === "ENOENT") return undefined;
          throw cause;
        }
      }),
    );
    const there = infos.filter((info) => info !== undefined);
    return {
      mountpoint: this.#directory,
      usedBytes: there.reduce((sum, { blocks }) => sum + blocks * 512, 0),
      inodesUsed: there.length,
    };
  }

  async close(): Promise<void> {
    await this.#pulls.close();
    this.#store.close();
  }
}

/** The name by which the store knows an image. */
function storedName(reference: Reference): string {
  const { tag, digest } = reference;
  return digest === undefined ? `${nameOf(reference)}:${tag}` : `${nameOf(reference)}@${digest}`;
}

/** Opens the store below `root`; removes what an interrupted pull left. */
export async function openImageService(options: ImageServiceOptions): Promise<ImageService> {
  const directory = join(options.root, "images");
  await mkdir(join(directory, "blocks"), { recursive: true, mode: 0o700 });
  await rm(join(directory, "ingest"), { recursive: true, force: true });
  await mkdir(join(directory, "ingest"), { mode: 0o700 });
  const store = new ImageStore(directory, {
    isPinned: (names) => isPinned(names, (options.settings?.() ?? defaultImageSettings).pinned),
    onDamage: (damage, kept) =>
      options.logger.error(
        "the images' database is damaged; it begins anew, and images have to be pulled again",
        {
          damage,
          kept,
        },
      ),
  });
  // Of a pull that ended between its file and its names.
  for (const id of store.ids()) store.dropUnused(id);
  for (const { id, sizeBytes, blockPath } of store.list()) {
    const damage = damageOf(blockPath, sizeBytes);
    if (damage === undefined) continue;
    options.logger.warn("image file is damaged; the image has to be pulled again", { image: id, damage });
    store.forget(id);
    store.dropUnused(id);
  }
  const known = new Set(store.ids().map((id) => store.blockPath(id)));
  for (const entry of await readdir(join(directory, "blocks"))) {
    const path = join(directory, "blocks", entry);
    if (!known.has(path)) await rm(path, { force: true });
  }
  return new Images(options, store);
}
