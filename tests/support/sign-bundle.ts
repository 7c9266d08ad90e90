/** Sigstore bundles in cosign 3's form, made by openssl, as referrers of an image. */
import { execFileSync } from "node:child_process";
import { mediaTypes } from "./oci-layout.ts";
import type { OwnRegistry } from "./own-registry.ts";
import type { KeyPair } from "./sign-image.ts";

export const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json";
const payloadType = "application/vnd.in-toto+json";

/** A statement as cosign 3's `sign` writes it. */
export function statementOf(digest: string, predicateType = "https://sigstore.dev/cosign/sign/v1"): object {
  return {
    _type: "https://in-toto.io/Statement/v1",
    subject: [{ digest: { sha256: digest.replace("sha256:", "") }, annotations: {} }],
    predicateType,
    predicate: {},
  };
}

type Bundle = {
  readonly mediaType: string;
  readonly verificationMaterial: object;
  readonly dsseEnvelope: {
    readonly payload: string;
    readonly payloadType: string;
    readonly signatures: readonly { sig: string }[];
  };
};

/** What DSSE signs in place of a payload. */
export function encodedOf(body: Buffer, type = payloadType): Buffer {
  return Buffer.concat([Buffer.from(`DSSEv1 ${type.length} ${type} ${body.length} `), body]);
}

/** A bundle around `content`, signed as DSSE says. */
export function signBundle(content: object | Buffer, { privatePath }: KeyPair, type = payloadType): Bundle {
  const body = Buffer.isBuffer(content) ? content : Buffer.from(JSON.stringify(content));
  const sig = execFileSync("openssl", ["dgst", "-sha256", "-sign", privatePath], {
    input: encodedOf(body, type),
  }).toString("base64");
  return {
    mediaType: bundleType,
    verificationMaterial: { publicKey: { hint: "any" } },
    dsseEnvelope: { payload: body.toString("base64"), payloadType: type, signatures: [{ sig }] },
  };
}

export type Referrer = {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly artifactType: string;
};

/** Puts a bundle into the registry; the descriptor for a list of referrers. */
export function putBundle(registry: OwnRegistry, repository: string, bundle: object): Referrer {
  const layer = registry.blob(repository, Buffer.from(JSON.stringify(bundle)), bundleType);
  const manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.manifest,
    artifactType: bundleType,
    config: registry.blob(repository, Buffer.from("{}"), "application/vnd.oci.empty.v1+json"),
    layers: [layer],
  };
  const digest = registry.manifest(repository, manifest, mediaTypes.manifest, "bundle");
  const size = Buffer.byteLength(JSON.stringify(manifest));
  return { mediaType: mediaTypes.manifest, digest, size, artifactType: bundleType };
}
