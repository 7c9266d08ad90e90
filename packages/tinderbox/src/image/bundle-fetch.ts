/**
 * The sigstore bundles that a registry keeps beside an image, as OCI 1.1 referrers of its manifest, at the place that the
 * manifest came from: by the referrers API, or where there is none by the tag `sha256-HEX`. Bounded, not verified.
 */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { TinderboxError } from "../base/errors.ts";
import type { HeldSignature } from "./held-signature.ts";
import { ifThere } from "./if-there.ts";
import type { Descriptor } from "./image-origin.ts";
import { descriptorSchema, parseJson } from "./manifest.ts";
import type { RegistryClient } from "./registry-client.ts";
import { bundleMediaType, parseBundle, signedDigests, signPredicateType } from "./sigstore-bundle.ts";

const maxBundles = 50;
const maxReferrerBytes = 64 << 10;
const maxBundleBytes = 256 << 10;

const referrersIndex = v.object({
  manifests: v.array(
    v.object({
      ...descriptorSchema.entries,
      artifactType: v.optional(v.string()),
      annotations: v.optional(v.record(v.string(), v.string()), {}),
    }),
  ),
});
const bundleManifest = v.object({ layers: v.array(descriptorSchema) });

/**
 * The signatures by a key in the bundles about the manifest or index `digest` (sha256).
 * @throws SIGNATURE for more than anybody needs, IMAGE_MALFORMED, and as the registry's client does
 */
export async function fetchBundles(
  client: RegistryClient,
  digest: string,
  work: string,
  signal: AbortSignal,
): Promise<readonly HeldSignature[]> {
  const found: HeldSignature[] = [];
  for (const referrer of await listReferrers(client, digest)) {
    // A list may name what is gone.
    const bundle = await ifThere(bundleOf(client, referrer));
    if (bundle === undefined) continue;
    const path = join(work, "bundle");
    await client.blob(bundle, path, { signal });
    const signature = parseBundle(await readFile(path, "utf8"));
    await rm(path);
    if (signature !== undefined && signedDigests(signature.payload).includes(digest)) found.push(signature);
  }
  return found;
}

async function listReferrers(client: RegistryClient, digest: string): Promise<readonly Descriptor[]> {
  const bytes =
    (await ifThere(client.referrersBeside(digest))) ??
    (await ifThere(client.manifestBeside(digest.replace(":", "-"))))?.bytes;
  if (bytes === undefined) return [];
  const { manifests } = parseJson(referrersIndex, bytes, `the list of referrers of ${digest}`);
  // Attestations are bundles too; a registry that copies annotations says which.
  const all = manifests.filter(
    ({ artifactType, annotations, size }) =>
      artifactType === bundleMediaType &&
      (annotations["dev.sigstore.bundle.predicateType"] ?? signPredicateType) === signPredicateType &&
      size <= maxReferrerBytes,
  );
  if (all.length > maxBundles)
    throw new TinderboxError(
      "SIGNATURE",
      `SignatureValidationFailed: ${digest} has ${all.length} sigstore bundles, at most ${maxBundles} are read`,
    );
  return all;
}

async function bundleOf(client: RegistryClient, { digest }: Descriptor): Promise<Descriptor | undefined> {
  const { bytes } = await client.manifestBeside(digest);
  if (bytes.length > maxReferrerBytes) return undefined;
  const { layers } = parseJson(bundleManifest, bytes, `the bundle's manifest ${digest}`);
  return layers.find(({ mediaType, size }) => mediaType === bundleMediaType && size <= maxBundleBytes);
}
