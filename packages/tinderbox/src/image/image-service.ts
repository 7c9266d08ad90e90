/** The image store of a node: pulls, keeps one block image each, removes what nobody holds. See contract.ts. */
import { rmSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { unpackArchive } from "./archive-files.ts";
import { damageOf } from "./block-health.ts";
import type { Digest, Image, ImageFsUsage, ImageService, PullOptions } from "./contract.ts";
import { credentialsOf } from "./credentials.ts";
import { findInDockerArchive } from "./docker-archive.ts";
import { fetchImage } from "./fetch-image.ts";
import type { ImageOrigin } from "./image-origin.ts";
import { defaultImageSettings, type ImageSettings, isPinned } from "./image-settings.ts";
import { ImageStore } from "./image-store.ts";
import { formatLocalSource, type LocalSource, localName } from "./local-source.ts";
import { parseManifest } from "./manifest.ts";
import { directoryFiles, findInLayout, layoutOrigin } from "./oci-layout.ts";
import { nameOf, parseReference, type Reference } from "./reference.ts";
import { defaultPatience, type Patience, RegistryClient } from "./registry-client.ts";
import { resolveNames } from "./short-names.ts";
import { fetchSignatures } from "./signature-fetch.ts";
import { checkPolicy, isAccepted, needsSignature } from "./signature-policy.ts";
import type { HeldSignature } from "./simple-signing.ts";
import { digestOf } from "./verified-copy.ts";

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

/** How an image that is brought is called, and whether it may be; both by the digest of what was asked for. */
type Naming = {
  readonly namesOf: (digest: string) => readonly string[];
  /** The signatures by which the policy accepts it, `manifests` being the sha256 of index and manifest. @throws SIGNATURE */
  readonly signaturesOf: (manifests: readonly string[], digest: string) => Promise<readonly HeldSignature[]>;
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
        return await this.#sharedPull(reference, given);
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

  async #sharedPull(reference: Reference, options: PullOptions): Promise<Image> {
    const key = JSON.stringify([reference, options.auth ?? null, options.authServer ?? ""]);
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
        pull.stop.abort(new TinderboxError("ABORTED", `pull of ${nameOf(reference)} was given up`));
    }
  }

  async #pull(reference: Reference, options: PullOptions & { signal: AbortSignal }): Promise<Image> {
    const { signal, auth, authServer = "" } = options;
    const { registries, policy, auth: sources, stallMs } = this.#settings;
    // What is rejected whatever it is, is not even asked for.
    if (!needsSignature(policy, reference)) checkPolicy(policy, reference, []);
    const given = auth && { credentials: auth, server: authServer };
    const client = new RegistryClient(reference, {
      mirrors: registries.get(reference.registry)?.mirrors ?? [],
      credentials: credentialsOf(reference, given, sources, signal),
      signal,
      patience: this.#options.patience ?? { ...defaultPatience, stallMs },
    });
    return await this.#inWorkDirectory(async (work) => {
      const which = reference.digest ?? reference.tag ?? "latest";
      return await this.#bring(client, which, work, options, {
        namesOf: (digest) => [
          ...(reference.tag === undefined ? [] : [`${nameOf(reference)}:${reference.tag}`]),
          `${nameOf(reference)}@${digest}`,
        ],
        signaturesOf: async (manifests) => {
          if (!needsSignature(policy, reference)) return [];
          const found: HeldSignature[] = [];
          // The index first: who signs a multi-platform image signs that.
          for (const digest of manifests) {
            found.push(...(await fetchSignatures(client, digest, work, signal)));
            if (isAccepted(policy, reference, found)) break;
          }
          return checkPolicy(policy, reference, found);
        },
      });
    });
  }

  async importLocal(source: LocalSource, name: string, options: PullOptions = {}): Promise<Image> {
    const signal = options.signal ?? new AbortController().signal;
    const { path, transport } = source;
    const { policy, shortNames } = this.#settings;
    const given = name === "" ? undefined : resolveNames(name, shortNames)[0];
    const tagOf = (reference: Reference): string => `${nameOf(reference)}:${reference.tag ?? "latest"}`;
    /** Nobody signs files: under a name that needs it they are refused. */
    const under = (namesOf: (digest: string) => readonly string[]): Naming => ({
      namesOf,
      signaturesOf: async (_, digest) =>
        namesOf(digest).flatMap((one) => checkPolicy(policy, parseReference(one), [])),
    });
    try {
      return await this.#inWorkDirectory(async (work) => {
        const withSignal = { ...options, signal };
        if (transport === "docker-archive") {
          const files = await unpackArchive(path, work, signal);
          const { origin, digest, names } = await findInDockerArchive(files, source.reference);
          const own = names.length > 0 ? names : [tagOf(localName(path, ""))];
          // An archive of docker has no manifest of which others would know the digest.
          const naming = under(() => (given ? [tagOf(given)] : own));
          return await this.#bring(origin, digest, work, withSignal, naming);
        }
        let files = directoryFiles(path);
        if (transport === "oci-archive") {
          const unpacked = await unpackArchive(path, work, signal);
          files = (file) => unpacked.open(file);
        }
        const { digest, names } = await findInLayout(files, source.reference);
        const reference = given ?? localName(path, names[0] ?? "");
        const naming = under((own) => [tagOf(reference), `${nameOf(reference)}@${own}`]);
        return await this.#bring(layoutOrigin(files), digest, work, withSignal, naming);
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
    naming: Naming,
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
    for (const pull of this.#pulls.values())
      pull.stop.abort(new TinderboxError("ABORTED", "the daemon stops"));
    await Promise.allSettled([...this.#pulls.values()].map((pull) => pull.done));
    this.#store.close();
  }
}

/** The name by which the store knows an image. */
function storedName(reference: Reference): string {
  const { tag, digest } = reference;
  return digest === undefined ? `${nameOf(reference)}:${tag}` : `${nameOf(reference)}@${digest}`;
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
