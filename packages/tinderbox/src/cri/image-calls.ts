/** ListImages, StreamImages, ImageStatus, PullImage, RemoveImage, ImageFsInfo. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { TinderboxError } from "../base/errors.ts";
import type { Image, ImageConfig } from "../image/contract.ts";
import type { ImageFilter, ImageSchema, ImageSpec } from "../rpc/gen/runtime/v1/api_pb.ts";
import { inChunks } from "./chunks.ts";
import type { CriContext, ImageCalls } from "./cri-context.ts";
import { plainText, required } from "./field-checks.ts";
import { credentialsFor } from "./image-credentials.ts";
import { verboseInfo } from "./verbose-info.ts";

function nameOf(image: ImageSpec | undefined): string {
  return plainText("image.image", required("image", image).image, 1, 1024);
}

/** The image's USER: a number is a uid, anything else a name; the group part is not CRI's concern. */
function userOf(user: string): { uid: { value: bigint } } | { username: string } {
  const [name = ""] = user.split(":");
  return /^\d{1,18}$/.test(name) ? { uid: { value: BigInt(name) } } : { username: name };
}

function toCri(image: Image): MessageInitShape<typeof ImageSchema> {
  return {
    id: image.id,
    repoTags: [...image.repoTags],
    repoDigests: [...image.repoDigests],
    size: BigInt(image.sizeBytes),
    pinned: image.isPinned,
    ...userOf(image.config.user),
  };
}

/** The kubelet tells its user of a registry's fault, and not of the runtime's, by this word. */
function asKubeletKnows(cause: unknown): never {
  const { code, message, hint } = TinderboxError.from(cause);
  if (code !== "REGISTRY") throw cause;
  throw new TinderboxError(code, `RegistryUnavailable: ${message}`, {
    cause,
    ...(hint !== undefined && { hint }),
  });
}

/** As the OCI image specification spells it, which is what people look for in `crictl inspecti`. */
function ociConfig(config: ImageConfig): object {
  return {
    User: config.user,
    Env: config.env,
    Entrypoint: config.entrypoint,
    Cmd: config.cmd,
    WorkingDir: config.workingDir,
    Labels: config.labels,
    StopSignal: config.stopSignal,
    Volumes: Object.fromEntries(config.volumes.map((path) => [path, {}])),
  };
}

/** All calls of the image service. */
export function imageCalls({ engine: { images } }: CriContext): ImageCalls {
  const select = (filter: ImageFilter | undefined): readonly Image[] => {
    const name = filter?.image?.image ?? "";
    if (name === "") return images.list();
    const found = images.get(name);
    return found === undefined ? [] : [found];
  };
  return {
    listImages: async ({ filter }) => ({ images: select(filter).map(toCri) }),
    async *streamImages({ filter }) {
      for (const chunk of inChunks(select(filter))) yield { images: chunk.map(toCri) };
    },
    imageStatus: async ({ image, verbose }) => {
      const found = images.get(nameOf(image));
      if (found === undefined) return {};
      const { config, fsType, blockPath } = found;
      return {
        image: toCri(found),
        info: verboseInfo(verbose, { imageSpec: { config: ociConfig(config) }, fsType, blockPath }),
      };
    },
    pullImage: async ({ image, auth }, { signal }) => {
      const name = nameOf(image);
      const pulled = await images.pull(name, { signal, ...credentialsFor(auth) }).catch(asKubeletKnows);
      // By the CRI this is the same text as Image.id and Container.image_id.
      return { imageRef: pulled.id };
    },
    removeImage: async ({ image }) => {
      await images.remove(nameOf(image));
      return {};
    },
    imageFsInfo: async () => {
      const { mountpoint, usedBytes, inodesUsed } = await images.usage();
      const usage = {
        timestamp: BigInt(Date.now()) * 1_000_000n,
        fsId: { mountpoint },
        usedBytes: { value: BigInt(usedBytes) },
        inodesUsed: { value: BigInt(inodesUsed) },
      };
      return { imageFilesystems: [usage], containerFilesystems: [usage] };
    },
  };
}
