/** MAC addresses that need no bookkeeping: the same input always gives the same address. */
import { createHash } from "node:crypto";
import { isIPv4 } from "node:net";
import { FirecrackerNetworkError } from "./network-error.ts";

/** Lower case, with colons. @throws {FirecrackerNetworkError} FC_NETWORK when it is no unicast address of 6 bytes */
export function parseMac(text: string, field = "mac"): string {
  const mac = text.toLowerCase();
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac) || mac === "00:00:00:00:00:00")
    throw new FirecrackerNetworkError(
      field,
      `${JSON.stringify(text)} is not a MAC address like 06:00:0a:00:00:02`,
    );
  if ((Number.parseInt(mac.slice(0, 2), 16) & 1) !== 0)
    throw new FirecrackerNetworkError(field, `${mac} is a multicast address`);
  return mac;
}

/**
 * A locally administered unicast address: `06:00` and the four bytes of an IPv4 address, which a guest can read back,
 * or else 46 bits of the SHA-256 of the text (an IPv6 address, an id).
 */
export function macFrom(addressOrId: string): string {
  const bytes = isIPv4(addressOrId)
    ? Buffer.from([6, 0, ...addressOrId.split(".").map(Number)])
    : createHash("sha256").update(addressOrId).digest().subarray(0, 6);
  if (!isIPv4(addressOrId)) bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 2;
  return bytes.toString("hex").replace(/..(?!$)/g, "$&:");
}
