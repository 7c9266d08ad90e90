/** `tinderbox pull` and `tinderbox images`. */
import { TinderboxError } from "../base/errors.ts";
import { type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { formatBytes, formatTable, printJson, shortId } from "./output.ts";

export async function pullImage(options: GlobalOptions, image: string): Promise<void> {
  const id = await withDaemon(options, async ({ images }) => {
    const pulled = await images.callUnary("pullImage", { image: { image, userSpecifiedImage: image } });
    return pulled.imageRef;
  });
  if (options.json) printJson({ image, id });
  else process.stdout.write(`${id}\n`);
}

export async function listImages(options: GlobalOptions): Promise<void> {
  const { images } = await withDaemon(options, ({ images }) => images.callUnary("listImages", {}));
  const list = images.map(({ id, repoTags, repoDigests, size }) => ({
    id,
    repoTags,
    repoDigests,
    sizeBytes: Number(size),
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
