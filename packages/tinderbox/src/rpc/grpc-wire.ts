/** What gRPC puts into HTTP/2: lengths before messages, percent signs in texts, time-outs in headers (gRPC over HTTP/2, grpc/doc/PROTOCOL-HTTP2.md). */

/** The kubelet's own limit for one message */
export const maxMessageBytes: number = 16 << 20;

/** The trailer that has a TinderboxError's code, which is finer than gRPC's */
export const codeTrailer = "tinderbox-code";

/** Before each message: whether it is compressed (one byte), and its length (four, big-endian). */
export const prefixBytes = 5;

/** The prefix of a message that is not compressed. */
export function messagePrefix(length: number): Buffer {
  const prefix = Buffer.allocUnsafe(prefixBytes);
  prefix[0] = 0;
  prefix.writeUInt32BE(length, 1);
  return prefix;
}

/** A message behind its prefix. */
export function framed(message: Uint8Array): Buffer {
  return Buffer.concat([messagePrefix(message.length), message]);
}

/** A status' text as a header takes it: bytes of UTF-8, those that are not printable ASCII, and the percent sign, as %XX. */
export function percentEncode(text: string): string {
  if (/^[ -$&-~]*$/.test(text)) return text;
  let encoded = "";
  for (const byte of Buffer.from(text, "utf8"))
    encoded +=
      byte < 0x20 || byte > 0x7e || byte === 0x25
        ? `%${byte.toString(16).toUpperCase().padStart(2, "0")}`
        : String.fromCharCode(byte);
  return encoded;
}

const unitMs: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1000,
  m: 1,
  u: 1e-3,
  n: 1e-6,
};

/** The value of `grpc-timeout`, one to eight digits and a unit, in ms; undefined when it is none. */
export function parseTimeout(value: string): number | undefined {
  const [, digits, unit = ""] = /^(\d{1,8})([HMSmun])$/.exec(value) ?? [];
  const factor = unitMs[unit];
  return digits === undefined || factor === undefined ? undefined : Number(digits) * factor;
}
