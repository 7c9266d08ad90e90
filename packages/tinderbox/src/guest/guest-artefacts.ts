/** What `tinderbox guest build` leaves in its output directory, and how others find it there again. */
import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { errnoOf, TinderboxError } from "../base/errors.ts";

/** Absolute paths and facts of a built guest. */
export type GuestArtefacts = {
  readonly vmlinux: string;
  /** With the agent as /init */
  readonly initramfs: string;
  /** Mounts the first drive and hands over to its /sbin/init; undefined when it was not asked for */
  readonly plainInitramfs: string | undefined;
  readonly kernelRelease: string;
  /** First line of `crun --version` */
  readonly crunVersion: string;
  /** The manifest.json that says what all was made of */
  readonly manifest: string;
  /** Whether everything was there already */
  readonly reused: boolean;
};

/** File names in the output directory. */
export const guestFiles = {
  vmlinux: "vmlinux",
  initramfs: "initramfs.img",
  plainInitramfs: "initramfs-plain.img",
  manifest: "manifest.json",
} as const;

const manifestSchema = v.object({
  /** Hash of everything the artefacts are made of */
  inputs: v.string(),
  kernelRelease: v.string(),
  crunVersion: v.string(),
  /** Where the kernel came from, for people */
  kernel: v.string(),
  modules: v.array(v.string()),
  plain: v.boolean(),
});

/** The content of manifest.json. */
export type GuestManifest = v.InferOutput<typeof manifestSchema>;

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** The manifest in `directory`, undefined when there is none or it is not ours. */
export async function readGuestManifest(directory: string): Promise<GuestManifest | undefined> {
  let text: string;
  try {
    text = await readFile(join(directory, guestFiles.manifest), "utf8");
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT" || errnoOf(cause) === "ENOTDIR") return undefined;
    throw cause;
  }
  try {
    const parsed = v.safeParse(manifestSchema, JSON.parse(text));
    return parsed.success ? parsed.output : undefined;
  } catch {
    return undefined; // cut off or not JSON: the same as not built
  }
}

/** The guest built into `directory`, undefined when there is none or a file of it is missing. */
export async function loadGuest(directory: string): Promise<GuestArtefacts | undefined> {
  const manifest = await readGuestManifest(directory);
  if (manifest === undefined) return undefined;
  const path = (name: keyof typeof guestFiles): string => join(directory, guestFiles[name]);
  const needed = [path("vmlinux"), path("initramfs"), ...(manifest.plain ? [path("plainInitramfs")] : [])];
  for (const file of needed) if (!(await exists(file))) return undefined;
  return {
    vmlinux: path("vmlinux"),
    initramfs: path("initramfs"),
    plainInitramfs: manifest.plain ? path("plainInitramfs") : undefined,
    kernelRelease: manifest.kernelRelease,
    crunVersion: manifest.crunVersion,
    manifest: path("manifest"),
    reused: true,
  };
}

/** As `loadGuest`, for those who cannot go on without one. */
export async function requireGuest(directory: string): Promise<GuestArtefacts> {
  const guest = await loadGuest(directory);
  if (guest !== undefined) return guest;
  throw new TinderboxError("NOT_FOUND", `${directory}: no guest kernel and initramfs`, {
    hint: `build them once: tinderbox guest build --output ${directory}`,
  });
}
