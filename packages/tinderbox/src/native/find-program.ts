/** Where a program is. */
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { delimiter, join } from "node:path";

/** The file that a program's name or path means; undefined when there is none. */
export async function findProgram(name: string): Promise<string | undefined> {
  const places = name.includes("/")
    ? [name]
    : (process.env["PATH"] ?? "").split(delimiter).map((dir) => join(dir, name));
  for (const path of places) {
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      // the next one
    }
  }
  return undefined;
}
