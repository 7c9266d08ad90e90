/**
 * Finds the shared libraries a program needs, as the dynamic loader would, by reading the ELF files. Nothing of the
 * program runs (as ldd would do), so it works for a program that this machine could not start.
 */
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { readElfLinkage } from "./elf-file.ts";

/** A file as it has to be in the guest: same path as here. */
export type ProgramFile = { readonly path: string; readonly content: Buffer };

/** Where the loader looks by default, by `e_machine`. */
const libraryDirectories = new Map<number, readonly string[]>([
  [62, ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"]],
  [183, ["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"]],
]);

const maxLibraries = 256;

async function readIfPresent(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === "ENOENT" || errno === "ENOTDIR" || errno === "EISDIR") return undefined;
    throw cause;
  }
}

async function findLibrary(
  name: string,
  machine: number,
  directories: readonly string[],
): Promise<ProgramFile | undefined> {
  for (const directory of directories) {
    const path = join(directory, name);
    const content = await readIfPresent(path);
    // As the loader does: a library of another machine is passed over.
    if (content !== undefined && readElfLinkage(content, path).machine === machine) return { path, content };
  }
  return undefined;
}

/** `program` with its interpreter and every library that it and they need, the program first. */
export async function collectProgram(program: string): Promise<readonly ProgramFile[]> {
  const content = await readFile(program);
  const own = readElfLinkage(content, program);
  const directories = libraryDirectories.get(own.machine);
  if (directories === undefined)
    throw new TinderboxError(
      "UNSUPPORTED",
      `${program}: ELF machine ${own.machine} is not x86-64 or AArch64`,
    );
  const files: ProgramFile[] = [{ path: program, content }];
  const seen = new Set<string>();
  if (own.interpreter !== undefined) {
    const interpreter = await readIfPresent(own.interpreter);
    if (interpreter === undefined)
      throw new TinderboxError("NOT_FOUND", `${program}: its interpreter ${own.interpreter} is missing`);
    files.push({ path: own.interpreter, content: interpreter });
    // The loader is also asked for as a library, and is there already.
    seen.add(own.interpreter.slice(own.interpreter.lastIndexOf("/") + 1));
  }
  for (let index = 0; index < files.length; index++) {
    const file = files[index];
    if (file === undefined) break;
    const { needed, runpath } = readElfLinkage(file.content, file.path);
    const origin = dirname(file.path);
    const first = runpath.map((path) => path.replaceAll(/\$ORIGIN|\$\{ORIGIN\}/g, origin));
    for (const name of needed) {
      if (seen.has(name)) continue;
      seen.add(name);
      if (name.includes("/") || seen.size > maxLibraries)
        throw new TinderboxError("INVALID", `${file.path}: needs ${JSON.stringify(name)}: refused`);
      const library = await findLibrary(name, own.machine, [...first, ...directories]);
      if (library === undefined)
        throw new TinderboxError(
          "NOT_FOUND",
          `${file.path}: needs ${name}, found in none of ${directories.join(" ")}`,
        );
      files.push(library);
    }
  }
  return files;
}
