// Session tokens of the metadata service: an expiry that only this process could have signed, so none has to be kept.
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

/** s */
export const maxTokenSeconds = 21_600;

const macBytes = 32;
const expiryBytes = 8;
const nonceBytes = 8;
const tokenBytes = expiryBytes + nonceBytes + macBytes;

/** Makes and checks the tokens of one machine. */
export class MetadataTokens {
  readonly #key = randomBytes(32);

  #mac(payload: Buffer): Buffer {
    return createHmac("sha256", this.#key).update(payload).digest();
  }

  /** A token that is valid for `seconds`. */
  issue(seconds: number): string {
    const payload = Buffer.concat([Buffer.alloc(expiryBytes), randomBytes(nonceBytes)]);
    payload.writeBigUInt64BE(BigInt(Date.now() + seconds * 1000));
    return Buffer.concat([payload, this.#mac(payload)]).toString("base64");
  }

  isValid(token: string): boolean {
    const raw = Buffer.from(token, "base64");
    if (raw.length !== tokenBytes || raw.toString("base64") !== token) return false;
    const payload = raw.subarray(0, -macBytes);
    return (
      timingSafeEqual(raw.subarray(-macBytes), this.#mac(payload)) &&
      payload.readBigUInt64BE() > BigInt(Date.now())
    );
  }
}
