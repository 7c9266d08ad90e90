/** The writable drive of a microVM: a sparse copy of an ext4 made once, since copying holes costs nothing. */
import { existsSync } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../native/run.ts";

let making: Promise<string> | undefined;

async function makeTemplate(stateDir: string, sizeMib: number): Promise<string> {
  const template = join(stateDir, `scratch-${sizeMib}.ext4`);
  if (existsSync(template)) return template;
  await mkdir(stateDir, { recursive: true });
  const temporary = `${template}.${process.pid}.tmp`;
  try {
    const file = await open(temporary, "w", 0o600);
    await file.truncate(sizeMib * 1024 * 1024);
    await file.close();
    // No journal: the drive ends with its VM, nothing on it is ever recovered.
    await run("mkfs.ext4", [
      "-q",
      "-F",
      "-m",
      "0",
      "-O",
      "^has_journal",
      "-E",
      "lazy_itable_init=1,nodiscard,root_owner=0:0",
      temporary,
    ]);
    await rename(temporary, template);
  } finally {
    await rm(temporary, { force: true });
  }
  return template;
}

/** Makes the scratch drive's file at `path`. */
export async function makeScratchDrive(
  stateDir: string,
  sizeMib: number,
  path: string,
  signal: AbortSignal,
): Promise<void> {
  making = (making ?? Promise.resolve("")).catch(() => "").then(() => makeTemplate(stateDir, sizeMib));
  const template = await making;
  await run("cp", ["--sparse=always", "--reflink=auto", "--", template, path], { signal });
}
