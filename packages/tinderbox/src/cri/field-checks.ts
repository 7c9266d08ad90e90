/**
 * Checks of single proto fields. Every complaint names the field's path, the value and what is allowed.
 * A field that is understood but not obeyed goes through `refuse`, never past it.
 */
import { isIP } from "node:net";
import { TinderboxError } from "../base/errors.ts";

const maxShownChars = 120;

function shown(value: unknown): string {
  const text = typeof value === "bigint" ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > maxShownChars ? `${text.slice(0, maxShownChars)}...` : text;
}

/** The INVALID error for a field. */
export function invalid(path: string, value: unknown, allowed: string, hint?: string): TinderboxError {
  return new TinderboxError(
    "INVALID",
    `${path}: ${shown(value)} is not allowed: ${allowed}`,
    hint === undefined ? {} : { hint },
  );
}

/** Throws UNSUPPORTED when `used`: the field asks for something that would not happen. */
export function refuse(used: boolean, path: string, value: unknown, supported: string): void {
  if (used)
    throw new TinderboxError("UNSUPPORTED", `${path}: ${shown(value)} is not supported: ${supported}`);
}

/** A message field that must be there. */
export function required<T>(path: string, value: T | undefined): T {
  if (value === undefined) throw new TinderboxError("INVALID", `${path}: missing: it must be set`);
  return value;
}

/** Text of `min` to `max` characters without control characters. */
export function plainText(path: string, value: string, min: number, max: number): string {
  if (value.length < min) throw invalid(path, value, "it must not be empty");
  if (value.length > max) throw invalid(path, value, `at most ${max} characters`);
  if (/[\x00-\x1f\x7f]/.test(value)) throw invalid(path, value, "no control characters");
  return value;
}

/** Text of any kind but NUL, which no system call takes. */
export function noNul(path: string, value: string): string {
  if (value.includes("\0")) throw invalid(path, value, "no NUL character");
  return value;
}

/** A name that is also used in paths: no slash, not a dot. */
export function nameText(path: string, value: string): string {
  plainText(path, value, 1, 253);
  if (value.includes("/") || value === "." || value === "..")
    throw invalid(path, value, "a name without slashes");
  return value;
}

/** An absolute path without `..` components. */
export function absolutePath(path: string, value: string): string {
  plainText(path, value, 1, 4096);
  if (!value.startsWith("/") || value.split("/").includes(".."))
    throw invalid(path, value, "an absolute path without `..`");
  return value;
}

/** An IP address, or "" for none. */
export function optionalIp(path: string, value: string): string {
  if (value !== "" && isIP(value) === 0) throw invalid(path, value, "an IPv4 or IPv6 address");
  return value;
}

/** A whole number in a range, as a JavaScript number. */
export function integer(
  path: string,
  value: bigint | number,
  min: number,
  max: number = Number.MAX_SAFE_INTEGER,
): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < min || number > max)
    throw invalid(path, value, `a number from ${min} to ${max}`);
  return number;
}

/** A proto enum number as one of our words. */
export function choice<T extends string>(path: string, value: number, words: Readonly<Record<number, T>>): T {
  const word = words[value];
  if (word === undefined)
    throw invalid(
      path,
      value,
      `one of ${Object.entries(words)
        .map(([n, w]) => `${n} (${w})`)
        .join(", ")}`,
    );
  return word;
}

/** An id that a call names; an empty one would be the prefix of every id. */
export function idOf(path: string, value: string): string {
  if (!/^[A-Za-z0-9_.-]{1,128}$/.test(value))
    throw invalid(path, value, "an id or its unique prefix, not empty");
  return value;
}
