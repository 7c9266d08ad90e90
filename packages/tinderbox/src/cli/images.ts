/** `tinderbox pull` and `tinderbox images`. */
import { resolve } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { parseLocalSource } from "../image/local-source.ts";
import { type CriClients, type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { formatBytes, formatTable, printJson, shortId } from "./output.ts";

export type PullOptions = {
  /** What an image from files shall be called */
  readonly name?: string;
};

/** Brings an image to the node, from a registry or, by a transport's name in front, from files here; its id. */
export async function bringImage(
  clients: Pick<CriClients, "images" | "imports">,
  image: string,
  options: PullOptions & { readonly signal?: AbortSignal },
): Promise<string> {
  const { name, signal } = options;
  const call = signal === undefined ? {} : { signal };
  const local = parseLocalSource(image);
  if (local !== undefined) {
    // The daemon has a working directory of its own.
    const source = { ...local, path: resolve(local.path) };
    return (await clients.imports.callUnary("import", { ...source, name: name ?? "" }, call)).id;
  }
  if (name !== undefined)
    throw new TinderboxError("INVALID", `--name ${name}: only an image from files can get a name`);
  const request = { image: { image, userSpecifiedImage: image } };
  return (await clients.images.callUnary("pullImage", request, call)).imageRef;
}

export async function pullImage(options: GlobalOptions, image: string, pull: PullOptions): Promise<void> {
  const id = await withDaemon(options, (clients) => bringImage(clients, image, pull));
  if (options.json) printJson({ image, id });
  else process.stdout.write(`${id}\n`);
}

export async function listImages(options: GlobalOptions): Promise<void> {
  const { images } = await withDaemon(options, ({ images }) => images.callUnary("listImages", {}));
  const list = images.map(({ id, repoTags, repoDigests, size, pinned }) => ({
    id,
    repoTags,
    repoDigests,
    sizeBytes: Number(size),
    isPinned: pinned,
  }));
  if (options.json) return printJson(list);
  const rows = list.map((image) => [
    image.repoTags[0] ?? image.repoDigests[0] ?? "<none>",
    shortId(image.id),
    formatBytes(BigInt(image.sizeBytes)),
  ]);
  process.stdout.write(formatTable(["IMAGE", "ID", "SIZE"], rows));
}

export async function removeImages(options: GlobalOptions, names: readonly string[]): Promise<void> {
  await withDaemon(options, async ({ images }) => {
    for (const image of names) {
      const { image: present } = await images.callUnary("imageStatus", { image: { image } });
      if (present === undefined)
        throw new TinderboxError("NOT_FOUND", `image ${JSON.stringify(image)} is not on this node`, {
          hint: "tinderbox images lists them",
        });
      await images.callUnary("removeImage", { image: { image } });
      if (!options.json) process.stdout.write(`${image}\n`);
    }
  });
  if (options.json) printJson(names);
}
