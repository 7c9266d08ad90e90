// Strings in bodies that have a syntax of their own. Each parser answers undefined to what it does not know.

export const levels = ["Off", "Error", "Warning", "Info", "Debug", "Trace"] as const;
export type LogLevel = (typeof levels)[number];

/** The level that `source` names, in any case. */
export function parseLevelName(source: string): LogLevel | undefined {
  const lower = source.toLowerCase();
  return lower === "warn" ? "Warning" : levels.find((one) => one.toLowerCase() === lower);
}

/** A MAC address, in lower case. */
export function parseMac(source: string): string | undefined {
  // Two characters a byte, as Rust reads them: `+5` is a five.
  if (!/^([0-9a-f+][0-9a-f]:){5}[0-9a-f+][0-9a-f]$/i.test(source)) return undefined;
  return source.toLowerCase().replaceAll("+", "0");
}

/** Four decimal numbers without leading zeros. */
export function parseIpv4(source: string): string | undefined {
  const isOne = source.split(".").every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256);
  return isOne && source.split(".").length === 4 ? source : undefined;
}

/** `0b` or `0x` and a number of 32 bits. */
export function parseRegister(source: string): number | undefined {
  const digits = source.slice(2).replace(/^\+/, "");
  const isNumber = source.startsWith("0b") ? /^[01]+$/ : source.startsWith("0x") ? /^[0-9a-f]+$/i : undefined;
  if (isNumber?.test(digits) !== true) return undefined;
  const value = Number.parseInt(digits, source.startsWith("0b") ? 2 : 16);
  return value <= 0xffff_ffff ? value : undefined;
}

/** A capability's number, after `!` when it shall not be required. */
export function parseCapability(source: string): string | undefined {
  const digits = source.replace(/^!/, "");
  return /^\+?\d+$/.test(digits) && Number(digits) <= 0xffff_ffff ? source : undefined;
}

/** Bits as 0, 1, x, with `_` between as one likes; at most `bits` of them. */
export function parseBitmap(bits: number): (source: string) => string | undefined {
  return (source) => {
    const places = source.replace(/^0b/, "").replaceAll("_", "");
    return /^[01x]*$/.test(places) && places.length <= bits ? source : undefined;
  };
}
