/**
 * A signature's payload as cosign until 2 and containers/image make it ("simple signing"): JSON that names digest and
 * repository. Pure.
 */
import * as v from "valibot";

export const payloadMediaType = "application/vnd.dev.cosign.simplesigning.v1+json";
export const signatureAnnotation = "dev.cosignproject.cosign/signature";

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
