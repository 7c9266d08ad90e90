/** The service beside CRI that imports images from files: see proto/tinderbox/images/v1/images.proto. */
import { TinderboxError } from "../base/errors.ts";
import type { ImageService } from "../image/contract.ts";
import { localTransports } from "../image/local-source.ts";
import type { Images } from "../rpc/gen/tinderbox/images/v1/images_pb.ts";
import type { ServiceHandlers } from "../rpc/grpc-server.ts";

function wrong(field: string, value: string, allowed: string): TinderboxError {
  return new TinderboxError("INVALID", `${field}: ${JSON.stringify(value.slice(0, 120))}: ${allowed}`);
}

/** Its one call. Whoever can open the socket is root, and may read any file. */
export function importCalls(images: ImageService): ServiceHandlers<typeof Images> {
  return {
    import: async ({ transport: word, path, reference, name }, { signal }) => {
      const transport = localTransports.find((one) => one === word);
      if (transport === undefined) throw wrong("transport", word, `one of ${localTransports.join(", ")}`);
      if (!path.startsWith("/") || path.includes("\0") || path.length > 4096)
        throw wrong("path", path, "an absolute path of at most 4096 characters, no NUL");
      if (reference.length > 512) throw wrong("reference", reference, "at most 512 characters");
      const image = await images.importLocal({ transport, path, reference }, name, { signal });
      return { id: image.id, names: [...image.repoTags, ...image.repoDigests] };
    },
  };
}
