/**
 * Layers merged as streams of tar entries into one flat tar: whiteouts applied, nothing extracted, so no path of an image
 * is ever resolved on the host. Two passes: which entries are visible (top layer first), then their content (bottom first,
 * so that a hard link comes after its target).
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { PassThrough, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { type ExtractEvents, extract, type Header, type Pack } from "tar-stream";
import { errnoOf, TinderboxError } from "../base/errors.ts";

/** The body of a tar entry */
type Body = ExtractEvents["entry"][1];

export type LayerFile = { readonly path: string; readonly diffId: string };

export type MergeLimits = { readonly maxEntries: number; readonly maxBytes: number };

export const defaultMergeLimits: MergeLimits = { maxEntries: 1_000_000, maxBytes: 32 * 2 ** 30 };

const maxCapturedBytes = 1 << 20;

export type Merged = { readonly passwd: string; readonly group: string };

/** A path of a layer without leading `/` and `./`. @throws IMAGE_MALFORMED for one that leaves the root */
export function cleanPath(name: string): string {
  const parts = name.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.includes("..") || name.includes("\0") || name.length > 4096) {
    throw new TinderboxError(
      "IMAGE_MALFORMED",
      `layer entry ${JSON.stringify(name.slice(0, 200))}: the path leaves the image`,
    );
  }
  return parts.join("/");
}

async function openLayer(path: string): Promise<{ source: Readable; steps: NodeJS.ReadWriteStream[] }> {
  const file = await open(path, "r");
  const magic = Buffer.alloc(4);
  try {
    await file.read(magic, 0, 4, 0);
  } finally {
    await file.close();
  }
  const source = createReadStream(path, { highWaterMark: 256 * 1024 });
  if (magic.readUInt16BE(0) === 0x1f8b) return { source, steps: [createGunzip()] };
  if (magic.readUInt32LE(0) === 0xfd2fb528) return { source, steps: [createZstdDecompress()] };
  return { source, steps: [] };
}

/** Runs `onEntry` for each entry of a layer in order. */
async function walkLayer(
  layer: LayerFile,
  limits: { bytes: number },
  checkDiffId: boolean,
  signal: AbortSignal,
  onEntry: (header: Header, body: Body) => Promise<void>,
): Promise<void> {
  const { source, steps } = await openLayer(layer.path);
  const hash = createHash("sha256");
  const reader = extract();
  const meter = new PassThrough({
    transform(chunk: Buffer, _encoding, done): void {
      limits.bytes -= chunk.length;
      if (checkDiffId) hash.update(chunk);
      if (limits.bytes < 0)
        done(new TinderboxError("IMAGE_MALFORMED", "the unpacked layers are over the size limit"));
      else done(null, chunk);
    },
  });
  // What follows the end-of-archive marker belongs to the digest, but is no entry.
  const flow = pipeline([source, ...steps, meter, reader], { signal });
  const entries = (async (): Promise<void> => {
    for await (const entry of reader) {
      await onEntry(entry.header, entry);
      entry.resume();
    }
  })();
  try {
    await Promise.all([flow, entries]);
  } catch (cause) {
    if (cause instanceof TinderboxError) throw cause;
    signal.throwIfAborted();
    const errno = errnoOf(cause) ?? "";
    const broken =
      errno.startsWith("Z_") ||
      errno.startsWith("ZSTD") ||
      errno === "ERR_STREAM_PREMATURE_CLOSE" ||
      !/^E[A-Z]+$/.test(errno);
    throw TinderboxError.from(
      cause instanceof Error && broken
        ? new TinderboxError("IMAGE_MALFORMED", `layer ${layer.diffId}: ${cause.message}`, { cause })
        : cause,
    );
  }
  const actual = `sha256:${hash.digest("hex")}`;
  if (checkDiffId && actual !== layer.diffId) {
    throw new TinderboxError(
      "IMAGE_DIGEST",
      `a layer unpacks to the digest ${actual}, the image's config says ${layer.diffId}`,
    );
  }
}

type Kept = { readonly layer: number; readonly index: number };

/** What of the layers is visible, and which hidden files a visible hard link still needs. */
type Plan = {
  readonly visible: ReadonlyMap<string, Kept>;
  /** `layer:index` of a hidden link target to the visible links that want its content */
  readonly rescued: ReadonlyMap<string, string[]>;
};

const kindsWithoutBody = new Set([
  "directory",
  "symlink",
  "link",
  "character-device",
  "block-device",
  "fifo",
]);

function ancestors(path: string): string[] {
  const found: string[] = [];
  for (let slash = path.lastIndexOf("/"); slash > 0; slash = path.lastIndexOf("/", slash - 1))
    found.push(path.slice(0, slash));
  return found;
}

async function plan(layers: readonly LayerFile[], limits: MergeLimits, signal: AbortSignal): Promise<Plan> {
  const visible = new Map<string, Kept>();
  const hiddenTrees = new Set<string>();
  const opaque = new Set<string>();
  const mustBeDirectory = new Set<string>();
  const links: { path: string; target: string; layer: number; index: number }[] = [];
  /** By layer: path to index of its last non-link file, for link targets */
  const files: Map<string, number>[] = layers.map(() => new Map());
  const budget = { bytes: limits.maxBytes };
  let entries = 0;
  for (let layer = layers.length - 1; layer >= 0; layer--) {
    const source = layers[layer];
    if (source === undefined) continue;
    const own = new Map<string, { index: number; type: string; target: string }>();
    const whiteouts: string[] = [];
    const opaques: string[] = [];
    let index = -1;
    await walkLayer(source, budget, true, signal, async (header) => {
      index++;
      if (++entries > limits.maxEntries)
        throw new TinderboxError("IMAGE_MALFORMED", `more than ${limits.maxEntries} layer entries`);
      const path = cleanPath(header.name);
      const slash = path.lastIndexOf("/");
      const base = path.slice(slash + 1);
      const parent = slash < 0 ? "" : path.slice(0, slash);
      if (base === ".wh..wh..opq") opaques.push(parent);
      else if (base.startsWith(".wh..wh.")) return;
      else if (base.startsWith(".wh.")) {
        const name = base.slice(4);
        if (name === "" || name === "." || name === "..")
          throw new TinderboxError("IMAGE_MALFORMED", `whiteout ${JSON.stringify(path)} names nothing`);
        whiteouts.push(parent === "" ? name : `${parent}/${name}`);
      } else if (path !== "") {
        const type = header.type ?? "file";
        const target = type === "link" ? cleanPath(header.linkname ?? "") : "";
        own.set(path, { index, type, target });
        if (type !== "link" && type !== "directory") files[layer]?.set(path, index);
      }
    });
    for (const [path, entry] of own) {
      if (visible.has(path)) continue;
      if (mustBeDirectory.has(path) && entry.type !== "directory") continue;
      const above = ancestors(path);
      if (hiddenTrees.has(path) || opaque.has("") || above.some((a) => hiddenTrees.has(a) || opaque.has(a)))
        continue;
      visible.set(path, { layer, index: entry.index });
      if (entry.type === "link") links.push({ path, target: entry.target, layer, index: entry.index });
      for (const ancestor of above) mustBeDirectory.add(ancestor);
    }
    for (const [path, entry] of own) if (entry.type !== "directory") hiddenTrees.add(path);
    for (const path of whiteouts) hiddenTrees.add(path);
    for (const path of opaques) opaque.add(path);
  }
  const rescued = new Map<string, string[]>();
  for (const link of links) {
    let at = link.layer;
    while (at >= 0 && !files[at]?.has(link.target)) at--;
    const index = files[at]?.get(link.target);
    if (index === undefined)
      throw new TinderboxError(
        "IMAGE_MALFORMED",
        `hard link ${JSON.stringify(link.path)} has no target ${JSON.stringify(link.target)}`,
      );
    const kept = visible.get(link.target);
    if (kept?.layer === at && kept.index === index) continue;
    const key = `${at}:${index}`;
    rescued.set(key, [...(rescued.get(key) ?? []), link.path]);
  }
  return { visible, rescued };
}

/** Writes one entry; resolves when its body is in. */
async function put(pack: Pack, header: Header, body: Body): Promise<void> {
  const hasBody = !kindsWithoutBody.has(header.type ?? "file");
  await new Promise<void>((resolve, reject) => {
    const entry = pack.entry(hasBody ? header : { ...header, size: 0 }, (error) =>
      error ? reject(error) : resolve(),
    );
    if (hasBody) body.pipe(entry);
    else entry.end(null);
  });
}

/**
 * Merges `layers` (bottom first) into `pack` and finalizes it. Keeps /etc/passwd and /etc/group for the image's record.
 * @throws IMAGE_MALFORMED, IMAGE_DIGEST
 */
export async function mergeLayers(
  layers: readonly LayerFile[],
  pack: Pack,
  limits: MergeLimits,
  signal: AbortSignal,
): Promise<Merged> {
  const { visible, rescued } = await plan(layers, limits, signal);
  const captured = new Map<string, string>();
  const budget = { bytes: limits.maxBytes };
  const linksOfRescued = new Map<string, string>();
  for (const paths of rescued.values()) {
    const [first, ...others] = paths;
    for (const other of others) if (first !== undefined) linksOfRescued.set(other, first);
  }
  const rescuedFirst = new Set([...rescued.values()].map((paths) => paths[0]));
  for (const [layer, source] of layers.entries()) {
    let index = -1;
    await walkLayer(source, budget, false, signal, async (header, body) => {
      index++;
      const path = cleanPath(header.name);
      const wanted = rescued.get(`${layer}:${index}`)?.[0];
      if (wanted !== undefined) await put(pack, { ...header, name: wanted }, body);
      const kept = visible.get(path);
      if (kept?.layer !== layer || kept.index !== index || rescuedFirst.has(path)) return;
      const type = header.type ?? "file";
      if (type === "link") {
        const linkname = linksOfRescued.get(path) ?? cleanPath(header.linkname ?? "");
        return put(pack, { ...header, name: path, linkname }, body);
      }
      if (
        type === "file" &&
        (path === "etc/passwd" || path === "etc/group") &&
        (header.size ?? 0) <= maxCapturedBytes
      ) {
        const parts: Buffer[] = [];
        for await (const chunk of body) parts.push(chunk as Buffer);
        const content = Buffer.concat(parts);
        captured.set(path, content.toString("utf8"));
        await new Promise<void>(
          (resolve, reject) =>
            void pack.entry({ ...header, name: path }, content, (e) => (e ? reject(e) : resolve())),
        );
        return;
      }
      if (type === "contiguous-file" || type === "file" || kindsWithoutBody.has(type)) {
        await put(pack, { ...header, name: type === "directory" ? `${path}/` : path }, body);
      }
    });
  }
  pack.finalize();
  return { passwd: captured.get("etc/passwd") ?? "", group: captured.get("etc/group") ?? "" };
}
