/**
 * One signature as cosign and containers/image make them ("simple signing"): a payload in JSON that names digest and
 * repository, and over its bytes a signature in base64. Pure: where they come from is signature-fetch.ts' concern.
 */
import { type KeyObject, verify } from "node:crypto";
import * as v from "valibot";
import { parseReference, type Reference } from "./reference.ts";

export const payloadMediaType = "application/vnd.dev.cosign.simplesigning.v1+json";
export const signatureAnnotation = "dev.cosignproject.cosign/signature";

/** Not verified: what was found beside an image and names its digest. */
export type HeldSignature = {
  /** The JSON as it was signed */
  readonly payload: string;
  readonly base64: string;
};

// Strict, as containers/image is: a critical part that is not understood must not be passed over.
const payloadSchema = v.object({
  critical: v.strictObject({
    type: v.literal("cosign container image signature"),
    image: v.strictObject({ "docker-manifest-digest": v.string() }),
    identity: v.strictObject({ "docker-reference": v.string() }),
  }),
});

/** What a payload says, or undefined for one that is no such payload. */
export function parsePayload(payload: string): { digest: string; reference: string } | undefined {
  let json: unknown;
  try {
    json = JSON.parse(payload);
  } catch {
    return undefined;
  }
  const result = v.safeParse(payloadSchema, json);
  if (!result.success) return undefined;
  const { image, identity } = result.output.critical;
  return { digest: image["docker-manifest-digest"], reference: identity["docker-reference"] };
}

/** The hashes that signers use with a key: all use SHA-256, newer ones what fits the curve. */
function hashesFor(key: KeyObject): readonly (string | null)[] {
  if (key.asymmetricKeyType === "ed25519") return [null];
  const curve = key.asymmetricKeyDetails?.namedCurve;
  return curve === "secp384r1"
    ? ["sha256", "sha384"]
    : curve === "secp521r1"
      ? ["sha256", "sha512"]
      : ["sha256"];
}

/** Why `signature` does not count, or undefined when one of `keys` made it for an identity that `isWanted`. */
export function verifySimpleSigning(
  { payload, base64 }: HeldSignature,
  keys: readonly KeyObject[],
  isWanted: (signed: Reference) => boolean,
): string | undefined {
  const bytes = Buffer.from(payload, "utf8");
  const signature = Buffer.from(base64, "base64");
  const isSigned = keys.some((key) => hashesFor(key).some((hash) => verify(hash, bytes, key, signature)));
  if (!isSigned) return "it is not by a key of the policy";
  // Only what a known key has signed is worth reading.
  const said = parsePayload(payload);
  if (said === undefined) return "it signs something other than an image";
  let signed: Reference;
  try {
    signed = parseReference(said.reference);
  } catch {
    return `it is for ${JSON.stringify(said.reference.slice(0, 200))}, which is no image's name`;
  }
  // What was signed is what is written: no tag is made up.
  const hasTag = /:[^/]*$/.test(said.reference.split("@")[0] ?? "");
  return isWanted(hasTag ? signed : { ...signed, tag: undefined })
    ? undefined
    : `it is for ${JSON.stringify(said.reference.slice(0, 200))}`;
}
