/** CRI's ImageSpec inside a container's configuration. Images are the same for every handler; what is free text is told back. */
import type { ImageNotes } from "../engine/contract.ts";
import type { ImageSpec } from "../rpc/gen/runtime/v1/api_pb.ts";
import { invalid, plainText } from "./field-checks.ts";

export type ParsedImage = { readonly name: string; readonly notes: ImageNotes };

/** Parses and checks; `handlers` are those of this node. */
export function parseImageSpec(path: string, spec: ImageSpec, handlers: readonly string[]): ParsedImage {
  const { annotations, runtimeHandler, imageRef } = spec;
  const name = plainText(`${path}.image`, spec.image, 1, 1024);
  const userImage = plainText(`${path}.user_specified_image`, spec.userSpecifiedImage, 0, 1024);
  if (runtimeHandler !== "" && !handlers.includes(runtimeHandler))
    throw invalid(`${path}.runtime_handler`, runtimeHandler, `empty or one of ${handlers.join(", ")}`);
  // Only statuses have it: two answers to which image is meant could differ.
  if (imageRef !== "")
    throw invalid(`${path}.image_ref`, imageRef, "empty in a request; name the image in image");
  return { name, notes: { annotations, runtimeHandler, userImage } };
}
