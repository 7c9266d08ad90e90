/** Finding a thing by its id or a unique prefix of it, as people type them. */
import { randomBytes } from "node:crypto";
import { TinderboxError } from "../base/errors.ts";

/** @throws NOT_FOUND when none, INVALID when several begin so */
export function byIdPrefix<T>(what: string, all: ReadonlyMap<string, T>, id: string): T {
  const exact = all.get(id);
  if (exact !== undefined) return exact;
  const matches = id === "" ? [] : [...all.keys()].filter((one) => one.startsWith(id));
  if (matches.length > 1) throw new TinderboxError("INVALID", `${what} id ${id}: ${matches.length} begin so`);
  const found = matches[0] === undefined ? undefined : all.get(matches[0]);
  if (found === undefined)
    throw new TinderboxError("NOT_FOUND", `${what} ${JSON.stringify(id)} does not exist`);
  return found;
}

/** A new id: 64 hexadecimal digits. */
export function newId(): string {
  return randomBytes(32).toString("hex");
}

/** Runs `act` with what the id names; a missing one is fine. */
export async function doIfThere<T>(find: () => T, act: (found: T) => Promise<void>): Promise<void> {
  let found: T;
  try {
    found = find();
  } catch (cause) {
    if (cause instanceof TinderboxError && cause.code === "NOT_FOUND") return;
    throw cause;
  }
  await act(found);
}
