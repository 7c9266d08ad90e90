/** What a registry may have or not. */
import { TinderboxError } from "../base/errors.ts";

/** What is there, or undefined where the registry has none. Any other failure is one. */
export async function ifThere<T>(what: Promise<T>): Promise<T | undefined> {
  try {
    return await what;
  } catch (cause) {
    if (cause instanceof TinderboxError && cause.code === "NOT_FOUND") return undefined;
    throw cause;
  }
}
