/**
 * Layers merged as streams of tar entries into one flat tar: nothing is extracted, so no path of an image is ever resolved
 * on the host. Two passes: the first makes the tree (layer-tree.ts) and checks every layer's digest; the second fetches the
 * bodies of the files that are still there.
 */
import { createHash } from "node:crypto";
import { PassThrough } from "node:stream";
import { pipeline } from "node:stream/promises";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { openCompressed } from "./decompress.ts";
import { type Inode, LayerTree } from "./layer-tree.ts";
import type { TarEntry } from "./tar-entry.ts";
import { readTar } from "./tar-reader.ts";
import { tarEnd, tarHeader, tarPadding } from "./tar-writer.ts";

export type LayerFile = { readonly path: string; readonly diffId: string };

export type MergeLimits = {
  readonly maxEntries: number;
  /** Unpacked bytes of all layers together */
  readonly maxBytes: number;
  /** Bytes of all names, link targets and extended attributes together, which are held in memory */
  readonly maxNameBytes: number;
};

export const defaultMergeLimits: MergeLimits = {
  maxEntries: 1_000_000,
  maxBytes: 32 * 2 ** 30,
  maxNameBytes: 256 * 2 ** 20,
};

const maxCapturedBytes = 1 << 20;

export type Merged = { readonly passwd: string; readonly group: string };

/** What a stream of a layer failed with, as ours: a broken layer, or a fault of this machine. */
function layerError(layer: LayerFile, cause: unknown): TinderboxError {
  if (cause instanceof TinderboxError)
    return cause.code === "IMAGE_MALFORMED"
      ? new TinderboxError(cause.code, `layer ${layer.diffId}: ${cause.message}`, { cause })
      : cause;
  const errno = errnoOf(cause) ?? "";
  // zlib's codes; what the kernel says (EIO, EMFILE) is no fault of the layer.
  const isBroken = /^(Z_|ZSTD|ERR_)/.test(errno) || errno === "";
  return isBroken && cause instanceof Error
    ? new TinderboxError("IMAGE_MALFORMED", `layer ${layer.diffId}: ${cause.message}`, { cause })
    : TinderboxError.from(cause);
}

type Budget = { bytes: number };

/** The entries of a layer, unpacked, counted against `budget`, and at the end checked against its digest. */
async function* readLayer(
  layer: LayerFile,
  budget: Budget,
  checkDiffId: boolean,
  signal: AbortSignal,
): AsyncGenerator<{ entry: TarEntry; body: AsyncGenerator<Buffer> }> {
  const algorithm = layer.diffId.split(":")[0] ?? "";
  const hash = createHash(algorithm);
  const { source, steps } = await openCompressed(layer.path);
  const meter = new PassThrough({
    transform(chunk: Buffer, _encoding, done): void {
      budget.bytes -= chunk.length;
      if (checkDiffId) hash.update(chunk);
      if (budget.bytes < 0)
        done(new TinderboxError("IMAGE_MALFORMED", "the unpacked layers are over the size limit"));
      else done(null, chunk);
    },
  });
  const flow = pipeline([source, ...steps, meter], { signal });
  // The reader sees the same failure; this one must not be unhandled until it is waited for.
  flow.catch(() => {});
  try {
    yield* readTar(meter);
    await flow;
  } catch (cause) {
    signal.throwIfAborted();
    throw layerError(layer, cause);
  } finally {
    source.destroy();
    meter.destroy();
  }
  const actual = `${algorithm}:${hash.digest("hex")}`;
  if (checkDiffId && actual !== layer.diffId) {
    throw new TinderboxError(
      "IMAGE_DIGEST",
      `a layer unpacks to the digest ${actual}, the image's config says ${layer.diffId}`,
    );
  }
}

async function readTree(
  layers: readonly LayerFile[],
  limits: MergeLimits,
  signal: AbortSignal,
): Promise<LayerTree> {
  const tree = new LayerTree();
  const budget = { bytes: limits.maxBytes };
  let entries = 0;
  let nameBytes = 0;
  for (const [layer, source] of layers.entries()) {
    let index = 0;
    for await (const { entry } of readLayer(source, budget, true, signal)) {
      if (++entries > limits.maxEntries)
        throw new TinderboxError("IMAGE_MALFORMED", `more than ${limits.maxEntries} layer entries`);
      nameBytes += entry.name.length + entry.linkName.length;
      for (const [name, value] of entry.xattrs) nameBytes += name.length + value.length;
      if (nameBytes > limits.maxNameBytes)
        throw new TinderboxError(
          "IMAGE_MALFORMED",
          `the names in the layers are over ${limits.maxNameBytes} bytes`,
        );
      tree.add(layer, index++, entry);
    }
  }
  return tree;
}

/** The files with a body, by layer and number of the entry, with their paths. */
type Files = ReadonlyMap<number, ReadonlyMap<number, { readonly inode: Inode; readonly paths: string[] }>>;

function hardLink(entry: TarEntry, name: string, linkName: string): Buffer {
  return tarHeader({ ...entry, kind: "link", name, linkName, size: 0, xattrs: new Map() });
}

/** Headers of all that has no body; what has one is put into `files`. */
function* withoutBodies(
  tree: LayerTree,
  files: Map<number, Map<number, { readonly inode: Inode; readonly paths: string[] }>>,
): Generator<Buffer> {
  const firstPath = new Map<Inode, string>();
  for (const { path, inode } of tree.paths()) {
    const { entry, layer, index } = inode;
    if (entry.kind === "file") {
      const ofLayer = files.get(layer) ?? new Map();
      files.set(layer, ofLayer);
      const file = ofLayer.get(index) ?? { inode, paths: [] };
      ofLayer.set(index, file);
      file.paths.push(path);
      continue;
    }
    const first = firstPath.get(inode);
    if (first !== undefined) yield hardLink(entry, path, first);
    else {
      if (entry.kind !== "directory") firstPath.set(inode, path);
      yield tarHeader({ ...entry, name: entry.kind === "directory" ? `${path}/` : path });
    }
  }
}

/** Layers that were read and checked once. */
export type MergedLayers = {
  /** The image's root directory */
  readonly root: TarEntry;
  /** The latest time of any file, seconds since 1970 */
  readonly latestTime: number;
  /** The flat tar, without the root; returns /etc/passwd and /etc/group for the image's record. Once only. */
  tar(): AsyncGenerator<Buffer, Merged>;
};

/** Reads `layers`, bottom first. @throws IMAGE_MALFORMED, IMAGE_DIGEST */
export async function mergeLayers(
  layers: readonly LayerFile[],
  limits: MergeLimits,
  signal: AbortSignal,
): Promise<MergedLayers> {
  const tree = await readTree(layers, limits, signal);
  return { root: tree.root, latestTime: tree.latestTime, tar: () => flatTar(tree, layers, limits, signal) };
}

async function* flatTar(
  tree: LayerTree,
  layers: readonly LayerFile[],
  limits: MergeLimits,
  signal: AbortSignal,
): AsyncGenerator<Buffer, Merged> {
  const files = new Map<number, Map<number, { readonly inode: Inode; readonly paths: string[] }>>();
  yield* withoutBodies(tree, files);
  const captured = new Map<Inode | undefined, Buffer>();
  const [passwd, group] = [tree.find("etc/passwd"), tree.find("etc/group")];
  for (const inode of [passwd, group])
    if (inode?.entry.kind === "file" && inode.entry.size <= maxCapturedBytes)
      captured.set(inode, Buffer.alloc(0));
  yield* bodies(layers, files, limits, captured, signal);
  yield tarEnd;
  return {
    passwd: captured.get(passwd)?.toString("utf8") ?? "",
    group: captured.get(group)?.toString("utf8") ?? "",
  };
}

async function* bodies(
  layers: readonly LayerFile[],
  files: Files,
  limits: MergeLimits,
  captured: Map<Inode | undefined, Buffer>,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const budget = { bytes: limits.maxBytes };
  for (const [layer, source] of layers.entries()) {
    const wanted = files.get(layer);
    if (wanted === undefined) continue;
    let index = -1;
    for await (const { entry, body } of readLayer(source, budget, false, signal)) {
      const file = wanted.get(++index);
      const [first, ...others] = file?.paths ?? [];
      if (file === undefined || first === undefined) continue;
      yield tarHeader({ ...entry, name: first });
      const before = captured.get(file.inode);
      const parts = before === undefined ? undefined : [before];
      for await (const part of body) {
        parts?.push(part);
        yield part;
      }
      if (parts !== undefined) captured.set(file.inode, Buffer.concat(parts));
      yield tarPadding(entry.size);
      for (const other of others) yield hardLink(entry, other, first);
    }
  }
}
