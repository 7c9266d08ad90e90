/**
 * Makes what microVMs boot: `vmlinux` from the distribution's stock kernel and `initramfs.img` around the agent. A
 * hash of all inputs is kept in manifest.json, so that a second run downloads and converts nothing.
 */
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { projectRoot } from "../base/paths.ts";
import { writeFileAtomic } from "../base/write-file.ts";
import { run } from "../native/run.ts";
import { readElfLinkage } from "./elf-file.ts";
import {
  type GuestArtefacts,
  type GuestManifest,
  guestFiles,
  loadGuest,
  readGuestManifest,
} from "./guest-artefacts.ts";
import { makeGuestInitramfs } from "./guest-initramfs.ts";
import { fetchKernel, kernelIdentity, resolveKernel } from "./guest-kernel.ts";
import type { GuestProgress } from "./guest-progress.ts";
import { agentModules, rootDriveModules, selectModules } from "./kernel-modules.ts";
import { makePlainInitramfs } from "./plain-initramfs.ts";
import { collectProgram, type ProgramFile } from "./shared-libraries.ts";
import { loadStaticBusybox } from "./static-busybox.ts";
import { kernelReleaseOf, unpackKernel } from "./unpack-kernel.ts";

/** Raised when the same inputs shall give other bytes. */
const recipeVersion = 1;

/** Where downloaded packages are kept between builds. */
export const packageCacheDirectory: string = join(projectRoot, ".cache/packages");

const crunProgram = "/usr/bin/crun";

/** What `buildGuest` is asked for. */
export type BuildGuestOptions = {
  readonly outputDir: string;
  /** A bzImage or vmlinux to use instead of the stock kernel */
  readonly kernel?: string;
  /** The modules of `kernel`, a directory as /lib/modules/RELEASE. Without it, everything is taken to be built in */
  readonly modulesDir?: string;
  /** The static tinderbox-native, which becomes /init */
  readonly nativeProgram: string;
  /** Also make initramfs-plain.img, for microVMs without an agent. @default false */
  readonly plain?: boolean;
  /** @default packageCacheDirectory */
  readonly cacheDir?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: GuestProgress) => void;
};

async function readNative(path: string): Promise<Buffer> {
  let content: Buffer;
  try {
    content = await readFile(path);
  } catch (cause) {
    if (errnoOf(cause) !== "ENOENT") throw cause;
    throw new TinderboxError("TOOL_MISSING", `${path}: no tinderbox-native there`, {
      cause,
      hint: "make native builds it; TINDERBOX_NATIVE names another place",
    });
  }
  // A script may stand in for it (tests); a program with an interpreter would not start: the guest has no libc of its.
  if (content.readUInt32BE(0) === 0x7f454c46 && readElfLinkage(content, path).interpreter !== undefined)
    throw new TinderboxError("INVALID", `${path}: linked dynamically; the guest's init has to be static`);
  return content;
}

async function readCrun(): Promise<readonly ProgramFile[]> {
  try {
    return await collectProgram(crunProgram);
  } catch (cause) {
    if (errnoOf(cause) !== "ENOENT") throw cause;
    throw new TinderboxError(
      "TOOL_MISSING",
      `${crunProgram}: not found, and the guest runs its containers with it`,
      {
        cause,
        hint: "apt-get install crun",
      },
    );
  }
}

/** Names, sizes and dates of a user's modules: enough to notice another set without reading all of it. */
async function directoryIdentity(directory: string): Promise<string> {
  const lines: string[] = [];
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const { size, mtimeMs } = await stat(path);
    lines.push(`${path} ${size} ${mtimeMs}`);
  }
  return lines.sort().join("\n");
}

function hashOf(parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash("sha256");
  for (const part of parts) {
    const bytes = typeof part === "string" ? Buffer.from(part) : part;
    hash.update(`${bytes.length}:`).update(bytes);
  }
  return hash.digest("hex");
}

/**
 * Builds the guest into `options.outputDir`, or finds that it is built already.
 *
 * @throws {TinderboxError} TOOL_MISSING without crun or tinderbox-native, NOT_FOUND when apt knows no kernel,
 * INVALID for a kernel that cannot be unpacked
 */
export async function buildGuest(options: BuildGuestOptions): Promise<GuestArtefacts> {
  const { nativeProgram, plain = false, cacheDir = packageCacheDirectory, signal } = options;
  const outputDir = resolve(options.outputDir);
  const report = options.onProgress ?? ((): void => {});

  const [native, crun] = await Promise.all([readNative(nativeProgram), readCrun()]);
  const busybox = plain ? await loadStaticBusybox(cacheDir, signal) : undefined;
  const source = await resolveKernel(options, signal);
  const identity = kernelIdentity(source);
  const inputs = hashOf([
    `recipe ${recipeVersion} node ${process.versions.zlib}`,
    identity,
    options.modulesDir === undefined ? "" : await directoryIdentity(options.modulesDir),
    native,
    ...crun.flatMap(({ path, content }) => [path, content]),
    busybox ?? "",
  ]);
  const present = await loadGuest(outputDir);
  if (present !== undefined && (await readGuestManifest(outputDir))?.inputs === inputs) return present;

  await mkdir(outputDir, { recursive: true });
  const workDir = await mkdtemp(join(outputDir, ".build-"));
  try {
    const { image, modulesDir } = await fetchKernel(source, cacheDir, workDir, report, signal);
    report({ step: "unpack-kernel", message: "kernel image to vmlinux", totalBytes: image.length });
    const vmlinux = await unpackKernel(image, workDir, signal).catch((cause: unknown) => {
      if (!(cause instanceof TinderboxError) || options.kernel === undefined) throw cause;
      const hint = cause.hint === undefined ? {} : { hint: cause.hint };
      throw new TinderboxError(cause.code, `${options.kernel}: ${cause.message}`, { cause, ...hint });
    });
    const kernelRelease = kernelReleaseOf(vmlinux) ?? (modulesDir ? basename(modulesDir) : "unknown");
    const select = (wanted: readonly string[]): ReturnType<typeof selectModules> =>
      modulesDir === undefined ? Promise.resolve([]) : selectModules(modulesDir, wanted, workDir, signal);

    report({ step: "initramfs", message: "agent, crun and kernel modules" });
    const modules = await select(agentModules);
    const initramfs = makeGuestInitramfs({ kernelRelease, modules, native, crun });
    const plainInitramfs =
      busybox && makePlainInitramfs({ kernelRelease, modules: await select(rootDriveModules), busybox });
    const crunVersion = (await run(crunProgram, ["--version"])).split("\n", 1)[0] ?? "";
    const manifest: GuestManifest = {
      inputs,
      kernelRelease,
      crunVersion,
      kernel: source.kind === "file" ? `${source.path} ${identity}` : identity,
      modules: modules.map(({ name }) => name),
      plain,
    };
    signal?.throwIfAborted();
    // The manifest goes first and comes last, so that it never vouches for files of another build.
    await rm(join(outputDir, guestFiles.manifest), { force: true });
    await writeFileAtomic(join(outputDir, guestFiles.vmlinux), vmlinux, 0o644);
    await writeFileAtomic(join(outputDir, guestFiles.initramfs), initramfs, 0o644);
    if (plainInitramfs)
      await writeFileAtomic(join(outputDir, guestFiles.plainInitramfs), plainInitramfs, 0o644);
    await writeFileAtomic(
      join(outputDir, guestFiles.manifest),
      `${JSON.stringify(manifest, undefined, 2)}\n`,
      0o644,
    );
  } finally {
    await rm(workDir, { recursive: true, force: true });
  }
  const built = await loadGuest(outputDir);
  if (built === undefined)
    throw new TinderboxError("INTERNAL", `${outputDir}: the guest vanished while it was built`);
  return { ...built, reused: false };
}
