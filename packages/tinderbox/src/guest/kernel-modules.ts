/**
 * Chooses the kernel modules a guest needs and the order in which they load, from a directory such as
 * /lib/modules/6.1.0-cloud-amd64. The dependencies are read from the modules themselves: Debian's packages come
 * without modules.dep, which only an installation makes.
 */
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { run } from "../native/run.ts";
import { readElfSection } from "./elf-file.ts";

/** A module ready to load: uncompressed. */
export type KernelModule = {
  /** As the kernel names it: `virtio_blk` */
  readonly name: string;
  /** Below the modules directory, without a compression's suffix: `kernel/drivers/block/virtio_blk.ko` */
  readonly path: string;
  readonly content: Buffer;
};

/** What the agent's guest uses, in the order in which it uses it. Dependencies come along by themselves. */
export const agentModules: readonly string[] = [
  ...["virtio_mmio", "virtio_pci", "vmw_vsock_virtio_transport", "virtio_blk", "virtio_net", "virtio_rng"],
  ...["ext4", "squashfs", "erofs", "overlay", "fuse", "af_packet", "virtio_balloon", "virtio_console"],
  // Containers with the rights to it make bridges, and there is no modprobe.
  "bridge",
];

/** What a plain guest needs to mount its root. */
export const rootDriveModules: readonly string[] = [
  ...["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "ext4"],
];

const maxModuleBytes = 64 << 20;
const suffix = /\.ko(\.xz|\.zst|\.gz)?$/;

/** `drivers/char/hw_random/virtio-rng.ko.xz` -> `virtio_rng`: file names say `-` where the kernel says `_`. */
function moduleName(path: string): string {
  return path
    .slice(path.lastIndexOf("/") + 1)
    .replace(suffix, "")
    .replaceAll("-", "_");
}

/** Values of one key in a `.modinfo` section: NUL-separated `key=value`. */
export function modinfoValues(modinfo: Buffer, key: string): string[] {
  return modinfo
    .toString("utf8")
    .split("\0")
    .filter((line) => line.startsWith(`${key}=`))
    .map((line) => line.slice(key.length + 1));
}

async function unpackModule(path: string, workDir: string, signal?: AbortSignal): Promise<Buffer> {
  const packed = await readFile(path, { ...(signal && { signal }) });
  if (path.endsWith(".ko")) return packed;
  if (path.endsWith(".zst")) return zstdDecompressSync(packed, { maxOutputLength: maxModuleBytes });
  if (path.endsWith(".gz")) return gunzipSync(packed, { maxOutputLength: maxModuleBytes });
  const copy = join(workDir, `module-${process.pid}`);
  try {
    await writeFile(`${copy}.xz`, packed, { mode: 0o600 });
    await run("xz", ["--decompress", "--force", `${copy}.xz`], { ...(signal && { signal }) });
    return await readFile(copy);
  } finally {
    await rm(`${copy}.xz`, { force: true });
    await rm(copy, { force: true });
  }
}

async function builtinNames(directory: string): Promise<Set<string>> {
  try {
    const list = await readFile(join(directory, "modules.builtin"), "utf8");
    return new Set(list.split("\n").filter(Boolean).map(moduleName));
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return new Set();
    throw cause;
  }
}

/**
 * The modules of `directory` that make `wanted` work, dependencies before dependants. What is built into the kernel,
 * or exists in this kernel neither way, is left out: the agent finds out by trying whether a device is served.
 */
export async function selectModules(
  directory: string,
  wanted: readonly string[],
  workDir: string,
  signal?: AbortSignal,
): Promise<readonly KernelModule[]> {
  const builtin = await builtinNames(directory);
  const paths = new Map<string, string>();
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !suffix.test(entry.name)) continue;
    const path = join(entry.parentPath, entry.name);
    paths.set(moduleName(path), path);
  }
  const selected = new Map<string, KernelModule>();
  const open = new Set<string>();
  const select = async (name: string, neededBy: string | undefined): Promise<void> => {
    if (selected.has(name) || builtin.has(name)) return;
    const path = paths.get(name);
    if (path === undefined) {
      if (neededBy === undefined) return;
      throw new TinderboxError(
        "NOT_FOUND",
        `${directory}: module ${neededBy} needs ${name}, which is missing`,
      );
    }
    if (open.has(name)) throw new TinderboxError("INVALID", `${directory}: module ${name} depends on itself`);
    open.add(name);
    const content = await unpackModule(path, workDir, signal);
    const modinfo = readElfSection(content, ".modinfo", path) ?? Buffer.alloc(0);
    const depends = modinfoValues(modinfo, "depends").flatMap((list) => list.split(",").filter(Boolean));
    for (const dependency of depends) await select(dependency.replaceAll("-", "_"), name);
    selected.set(name, {
      name,
      path: relative(directory, path).replace(suffix, ".ko"),
      content,
    });
  };
  for (const name of wanted) await select(name, undefined);
  return [...selected.values()];
}
