// The address of a network device whose client gave none: QEMU would give every machine the same.
import { randomBytes } from "node:crypto";

/** A random unicast address, locally administered. */
export function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfe) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}
