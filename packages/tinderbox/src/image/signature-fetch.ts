/**
 * The signatures that a registry keeps beside an image: cosign's tag `sha256-HEX.sig` in the same repository, at the place
 * that the image's manifest came from. Bounded, not verified.
 */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { TinderboxError } from "../base/errors.ts";
import type { HeldSignature } from "./held-signature.ts";
import { ifThere } from "./if-there.ts";
import { descriptorSchema, parseJson } from "./manifest.ts";
import type { RegistryClient } from "./registry-client.ts";
import { parsePayload, payloadMediaType, signatureAnnotation } from "./simple-signing.ts";

const maxSignatures = 100;
const maxPayloadBytes = 64 << 10;
const maxBase64Chars = 4096;

const signatureManifest = v.object({
  layers: v.array(
    v.object({
      ...descriptorSchema.entries,
      annotations: v.optional(v.record(v.string(), v.string()), {}),
    }),
  ),
});

/**
 * The signatures of the manifest or index `digest` (sha256).
 * @throws SIGNATURE for more than anybody needs, IMAGE_MALFORMED, and as the registry's client does
 */
export async function fetchSignatures(
  client: RegistryClient,
  digest: string,
  work: string,
  signal: AbortSignal,
): Promise<readonly HeldSignature[]> {
  const found: HeldSignature[] = [];
  for (const { descriptor, base64 } of await listSignatures(client, digest)) {
    const path = join(work, "signature");
    await client.blob(descriptor, path, { signal });
    const payload = await readFile(path, "utf8");
    await rm(path);
    if (parsePayload(payload)?.digest === digest) found.push({ payload, base64 });
  }
  return found;
}

async function listSignatures(
  client: RegistryClient,
  digest: string,
): Promise<readonly { descriptor: v.InferOutput<typeof descriptorSchema>; base64: string }[]> {
  const tag = `${digest.replace(":", "-")}.sig`;
  const found = await ifThere(client.manifestBeside(tag));
  if (found === undefined) return [];
  const { layers } = parseJson(signatureManifest, found.bytes, `the signatures' manifest ${tag}`);
  // Attestations and the like are kept there too.
  const all = layers.flatMap(({ annotations, ...descriptor }) => {
    const base64 = annotations[signatureAnnotation];
    if (descriptor.mediaType !== payloadMediaType || base64 === undefined) return [];
    return descriptor.size > maxPayloadBytes || base64.length > maxBase64Chars
      ? []
      : [{ descriptor, base64 }];
  });
  if (all.length > maxSignatures)
    throw new TinderboxError(
      "SIGNATURE",
      `SignatureValidationFailed: ${tag} has ${all.length} signatures, at most ${maxSignatures} are read`,
    );
  return all;
}
