/** From a manifest to one block image: the blobs come in parallel into a pull's own directory, then are merged. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { makeBlockImage } from "./block-image.ts";
import type { ImageConfig, PullOptions } from "./contract.ts";
import type { ImageOrigin } from "./image-origin.ts";
import { type Manifest, parseConfig } from "./manifest.ts";

const parallelDownloads = 4;

export type FetchedImage = {
  readonly sizeBytes: number;
  readonly config: ImageConfig;
  readonly passwd: string;
  readonly group: string;
};

/** Makes `blockPath` (whole or absent) of what `manifest` names at `origin`; `work` is the pull's own directory. */
export async function fetchImage(
  origin: ImageOrigin,
  manifest: Manifest,
  work: string,
  blockPath: string,
  { signal, onProgress }: PullOptions & { readonly signal: AbortSignal },
): Promise<FetchedImage> {
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
  const { sizeBytes, passwd, group } = await makeBlockImage(layers, blockPath, signal);
  onProgress?.({ kind: "converting", doneLayers: count, layers: count });
  return { sizeBytes, config, passwd, group };
}
