/** Looks at a path that an option names. */
import type { Stats } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { FirecrackerJailerError } from "./jailer-error.ts";

/** The path with its links resolved. @throws {FirecrackerJailerError} FC_JAILER naming `field` when it is not there, or not `wanted` */
export async function inspectPath(
  field: string,
  path: string,
  wanted: (facts: Stats) => boolean,
  what: string,
): Promise<string> {
  try {
    const real = await realpath(path);
    if (wanted(await stat(real))) return real;
  } catch (cause) {
    throw new FirecrackerJailerError(
      field,
      `${path}: ${cause instanceof Error ? cause.message : String(cause)}`,
      cause,
    );
  }
  throw new FirecrackerJailerError(field, `${path} is not ${what}`);
}
