/** `tinderbox pull` and `tinderbox images`. */
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
