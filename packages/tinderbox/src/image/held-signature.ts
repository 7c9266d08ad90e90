/**
 * A signature beside an image, of either of cosign's forms (simple-signing.ts, sigstore-bundle.ts), and whether it counts.
 * Pure: where they come from is signature-fetch.ts' and bundle-fetch.ts' concern.
 */
import { type KeyObject, verify } from "node:crypto";
import { parseReference, type Reference } from "./reference.ts";
import { isEncodedStatement, signedDigests } from "./sigstore-bundle.ts";
import { parsePayload } from "./simple-signing.ts";

/** Not verified: what was found beside an image and names its digest. */
export type HeldSignature = {
  /** What was signed, byte by byte: the JSON of simple signing, or a statement in DSSE's encoding */
  readonly payload: string;
  readonly base64: string;
};

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

/**
 * Why `signature` does not count, or undefined when one of `keys` made it for an identity that `isWanted`; undefined is the
 * identity of a signature that names none.
 */
export function verifySignature(
  { payload, base64 }: HeldSignature,
  keys: readonly KeyObject[],
  isWanted: (signed: Reference | undefined) => boolean,
): string | undefined {
  const bytes = Buffer.from(payload, "utf8");
  const signature = Buffer.from(base64, "base64");
  const isSigned = keys.some((key) => hashesFor(key).some((hash) => verify(hash, bytes, key, signature)));
  if (!isSigned) return "it is not by a key of the policy";
  // Only what a known key has signed is worth reading.
  if (isEncodedStatement(payload)) {
    if (signedDigests(payload).length === 0) return "it signs something other than an image";
    return isWanted(undefined) ? undefined : "it names no repository";
  }
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
