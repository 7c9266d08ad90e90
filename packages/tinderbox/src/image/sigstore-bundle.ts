/**
 * cosign 3's form of a signature: a sigstore bundle with a DSSE envelope (its PROTOCOL.md) around an in-toto statement about
 * the image's digest. Pure. Certificates and transparency logs are not looked at.
 */
import * as v from "valibot";

export const bundleMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json";
export const signPredicateType = "https://sigstore.dev/cosign/sign/v1";
const payloadType = "application/vnd.in-toto+json";
const maxBase64Chars = 4096;

const bundleSchema = v.object({
  mediaType: v.literal(bundleMediaType),
  // One of several: a bundle with a certificate is by a key that nobody here knows.
  verificationMaterial: v.object({
    publicKey: v.object({}),
    certificate: v.optional(v.undefined()),
    x509CertificateChain: v.optional(v.undefined()),
  }),
  dsseEnvelope: v.object({
    payload: v.string(),
    payloadType: v.literal(payloadType),
    signatures: v.strictTuple([v.object({ sig: v.pipe(v.string(), v.maxLength(maxBase64Chars)) })]),
  }),
});

const statementSchema = v.object({
  _type: v.literal("https://in-toto.io/Statement/v1"),
  subject: v.array(v.object({ digest: v.record(v.string(), v.string()) })),
  predicateType: v.literal(signPredicateType),
});

/** As JSON of a given shape, or undefined. */
function parsed<S extends v.GenericSchema>(schema: S, text: string): v.InferOutput<S> | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined;
  }
  const result = v.safeParse(schema, json);
  return result.success ? result.output : undefined;
}

/** DSSE's pre-authentication encoding of a statement: what is signed. */
function encodingHead(bytes: number): string {
  return `DSSEv1 ${payloadType.length} ${payloadType} ${bytes} `;
}

/** Whether the signed text is a statement in DSSE's encoding; it begins as no JSON does. */
export function isEncodedStatement(signed: string): boolean {
  return signed.startsWith("DSSEv1 ");
}

/** The digests (`sha256:HEX`) of the images that an encoded statement signs; none for a statement about something else. */
export function signedDigests(signed: string): readonly string[] {
  const body = signed.slice(signed.indexOf("{"));
  if (signed !== encodingHead(Buffer.byteLength(body)) + body) return [];
  const subjects = parsed(statementSchema, body)?.subject ?? [];
  return subjects.flatMap(({ digest: { sha256 } }) => (sha256 === undefined ? [] : [`sha256:${sha256}`]));
}

/** The signature in a bundle that was made with a key, or undefined for any other bundle. */
export function parseBundle(text: string): { payload: string; base64: string } | undefined {
  const envelope = parsed(bundleSchema, text)?.dsseEnvelope;
  if (envelope === undefined) return undefined;
  const bytes = Buffer.from(envelope.payload, "base64");
  const [{ sig }] = envelope.signatures;
  // Bytes that are no text become others here, with another length or signature than they say.
  return { payload: encodingHead(bytes.length) + bytes.toString("utf8"), base64: sig };
}
