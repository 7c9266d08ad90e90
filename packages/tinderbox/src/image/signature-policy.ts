/** Which images may be brought to the node, and whose signatures count: containers-policy.json(5)'s terms, for registries and repositories. */
import { createPublicKey, type KeyObject } from "node:crypto";
import { readFileSync } from "node:fs";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { type HeldSignature, verifySignature } from "./held-signature.ts";
import { nameOf, type Reference } from "./reference.ts";

/** How the docker-reference of a signature must be that of the image; with `matchDigest` it may be any, or none */
export const signedIdentities = ["matchRepository", "matchRepoDigestOrExact", "matchDigest"] as const;
export type SignedIdentity = (typeof signedIdentities)[number];

export type PolicyRule =
  | { readonly type: "insecureAcceptAnything" }
  | { readonly type: "reject" }
  | {
      readonly type: "sigstoreSigned";
      /** One of them must have signed */
      readonly keys: readonly KeyObject[];
      readonly signedIdentity: SignedIdentity;
    };

export type SignaturePolicy = {
  /** Of images that no scope names */
  readonly default: PolicyRule;
  /** By `registry` or `registry/path`; the longest that fits counts */
  readonly scopes: ReadonlyMap<string, PolicyRule>;
};

export const acceptAnything: SignaturePolicy = {
  default: { type: "insecureAcceptAnything" },
  scopes: new Map(),
};

const maxKeyBytes = 64 << 10;

/** The key of a PEM file, as cosign writes its cosign.pub. @throws CONFIG saying what the file is instead */
export function loadPublicKey(path: string): KeyObject {
  const wrong = (why: string, cause?: unknown): TinderboxError =>
    new TinderboxError("CONFIG", why, cause === undefined ? {} : { cause });
  let pem: string;
  try {
    pem = readFileSync(path, "utf8");
  } catch (cause) {
    throw wrong(errnoOf(cause) === "ENOENT" ? "no such file" : TinderboxError.from(cause).message, cause);
  }
  // Node would take the public half of a private key or a certificate as well: neither is meant to be here.
  if (pem.length > maxKeyBytes || !/^-----BEGIN (RSA )?PUBLIC KEY-----$/m.test(pem) || /PRIVATE/.test(pem))
    throw wrong("not a public key in PEM (BEGIN PUBLIC KEY), as cosign.pub is");
  let key: KeyObject;
  try {
    key = createPublicKey(pem);
  } catch (cause) {
    throw wrong(`a key that cannot be read: ${TinderboxError.from(cause).message}`, cause);
  }
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  const isKnown =
    type === "ed25519" ||
    (type === "rsa" && (details?.modulusLength ?? 0) >= 2048) ||
    (type === "ec" && ["prime256v1", "secp384r1", "secp521r1"].includes(details?.namedCurve ?? ""));
  if (!isKnown) throw wrong("not an ECDSA (P-256, P-384, P-521), Ed25519 or RSA (2048 bits or more) key");
  return key;
}

/** The rule for a repository. */
export function ruleFor(policy: SignaturePolicy, reference: Reference): PolicyRule {
  for (
    let scope = nameOf(reference);
    scope !== "";
    scope = scope.slice(0, Math.max(0, scope.lastIndexOf("/")))
  ) {
    const rule = policy.scopes.get(scope);
    if (rule !== undefined) return rule;
  }
  return policy.default;
}

/** Whether signatures have to be looked for. */
export function needsSignature(policy: SignaturePolicy, reference: Reference): boolean {
  return ruleFor(policy, reference).type === "sigstoreSigned";
}

/** Whether a signature that names no repository can count, as those in sigstore bundles. */
export function acceptsUnnamed(policy: SignaturePolicy, reference: Reference): boolean {
  const rule = ruleFor(policy, reference);
  return rule.type === "sigstoreSigned" && rule.signedIdentity === "matchDigest";
}

/** As `checkPolicy`, as a yes or no. */
export function isAccepted(
  policy: SignaturePolicy,
  reference: Reference,
  signatures: readonly HeldSignature[],
): boolean {
  try {
    checkPolicy(policy, reference, signatures);
    return true;
  } catch {
    return false;
  }
}

/**
 * Whether the image may be had under the name `reference`, `signatures` being those whose digest is the image's; those
 * that count. @throws SIGNATURE, its text begun as the kubelet knows it
 */
export function checkPolicy(
  policy: SignaturePolicy,
  reference: Reference,
  signatures: readonly HeldSignature[],
): readonly HeldSignature[] {
  const rule = ruleFor(policy, reference);
  if (rule.type === "insecureAcceptAnything") return [];
  const refused = (why: string, more: { readonly hint?: string } = {}): TinderboxError =>
    new TinderboxError("SIGNATURE", `SignatureValidationFailed: ${nameOf(reference)}: ${why}`, more);
  if (rule.type === "reject") throw refused("the policy rejects images from there");
  const { keys, signedIdentity } = rule;
  const isWanted = (signed: Reference | undefined): boolean =>
    isSameIdentity(signedIdentity, signed, reference);
  const judged = signatures.map((signature) => ({
    signature,
    fault: verifySignature(signature, keys, isWanted),
  }));
  const good = judged.filter(({ fault }) => fault === undefined);
  if (good.length > 0) return good.map(({ signature }) => signature);
  if (judged.length === 0)
    throw refused(
      "the policy wants a signature, and none is known for this image",
      unnamedHint(signedIdentity),
    );
  const faults = [...new Set(judged.map(({ fault }) => fault))].slice(0, 5);
  throw refused(`none of ${judged.length} signatures counts: ${faults.join("; ")}`);
}

function unnamedHint(rule: SignedIdentity): { readonly hint?: string } {
  if (rule === "matchDigest") return {};
  return {
    hint: `Sigstore bundles, as cosign 3 makes them, name no repository: they need signed_identity = "matchDigest", not ${rule}.`,
  };
}

function isSameIdentity(rule: SignedIdentity, signed: Reference | undefined, wanted: Reference): boolean {
  if (rule === "matchDigest") return true;
  if (signed === undefined || nameOf(signed) !== nameOf(wanted)) return false;
  // Of a digest the signature has its own word: the digest of the image.
  if (rule === "matchRepository" || wanted.tag === undefined) return true;
  return signed.tag === wanted.tag;
}
