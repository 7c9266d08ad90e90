/** A busybox that runs without libraries: the host's own when it is static, else Debian's busybox-static. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { downloadDebianPackage, findDebianPackage, unpackDebianPackage } from "./debian-package.ts";
import { readElfLinkage } from "./elf-file.ts";

const places: readonly string[] = ["bin/busybox", "usr/bin/busybox"];

async function readStatic(root: string): Promise<Buffer | undefined> {
  for (const place of places) {
    const path = join(root, place);
    const content = await readFile(path).catch(() => undefined);
    if (content === undefined) continue;
    const { interpreter, needed } = readElfLinkage(content, path);
    if (interpreter === undefined && needed.length === 0) return content;
  }
  return undefined;
}

/** The program's bytes; `cacheDir` keeps the package when one has to be downloaded. */
export async function loadStaticBusybox(cacheDir: string, signal?: AbortSignal): Promise<Buffer> {
  const own = await readStatic("/");
  if (own !== undefined) return own;
  const wanted = await findDebianPackage("busybox-static", signal);
  if (wanted === undefined)
    throw new TinderboxError("TOOL_MISSING", "busybox: no static one here, and apt knows no busybox-static", {
      hint: "apt-get update, or apt-get install busybox-static",
    });
  const deb = await downloadDebianPackage(wanted, cacheDir, signal);
  const directory = await mkdtemp(join(cacheDir, "busybox-"));
  try {
    await unpackDebianPackage(deb, directory, signal);
    const found = await readStatic(directory);
    if (found === undefined)
      throw new TinderboxError("NOT_FOUND", `${deb}: no static busybox in ${places.join(" or ")}`);
    return found;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
