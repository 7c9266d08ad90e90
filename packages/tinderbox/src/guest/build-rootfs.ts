/**
 * Makes `rootfs.ext4` for plain microVMs: from a Debian suite, from a flat tar archive (a flattened OCI image), or a
 * tiny one around busybox whose init shows `uname -a` and ends the machine. Nothing is mounted; archives are unpacked
 * into a private directory that nobody else can enter, by GNU tar, which lets no member out of it.
 */
import {
  chmod,
  lstat,
  lutimes,
  mkdir,
  mkdtemp,
  readdir,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { run } from "../native/run.ts";
import { packageCacheDirectory } from "./build-guest.ts";
import { type ImageFile, makeExt4Image } from "./ext4-image.ts";
import type { GuestProgress } from "./guest-progress.ts";
import { loadStaticBusybox } from "./static-busybox.ts";

/** What the root file system is made of. */
export type RootfsSource =
  | { readonly kind: "busybox" }
  /** An uncompressed tar archive with a whole root file system */
  | { readonly kind: "tar"; readonly path: string }
  /** A squashfs image with a whole root file system, as the image store has them */
  | { readonly kind: "squashfs"; readonly path: string }
  | {
      readonly kind: "debian-suite";
      /** `bookworm`, `stable` */
      readonly suite: string;
      /** Installed beside the essential packages */
      readonly packages: readonly string[];
      /** @default the mirror that the host's apt uses, or mmdebstrap's own default */
      readonly mirror?: string;
    };

/** What `buildRootfs` is asked for. */
export type BuildRootfsOptions = {
  readonly source: RootfsSource;
  /** The image file, made whole or not at all */
  readonly output: string;
  /** @default what the content needs, a quarter more, and 32 MiB */
  readonly sizeMib?: number;
  /** A script or program that becomes /sbin/init */
  readonly init?: string;
  /** Where downloaded packages are kept. @default packageCacheDirectory */
  readonly cacheDir?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: GuestProgress) => void;
};

const maxSizeMib = 1 << 20;
const blockBytes = 4096;
/** All names of one inode table entry, and what ext4 keeps beside it. */
const inodeBytes = 512;
const suitePattern = /^[a-z][a-z0-9-]*$/;
const packagePattern = /^[a-z0-9][a-z0-9.+-]*$/;

const busyboxInit = `#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev 2>/dev/null
exec >/dev/console 2>&1
echo
echo "Tinderbox: a microVM is up"
/bin/busybox uname -a
/bin/busybox sync
/bin/busybox reboot -f
`;

/** Nothing is kept of when it was made. */
async function undate(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true }))
    await lutimes(join(entry.parentPath, entry.name), 0, 0);
}

async function fillWithBusybox(directory: string, cacheDir: string, signal?: AbortSignal): Promise<void> {
  const put = async (path: string, content: string | Buffer, mode: number): Promise<void> => {
    await writeFile(join(directory, path), content);
    await chmod(join(directory, path), mode);
  };
  // By chmod: a mode that is given to mkdir is what the caller's umask leaves of it.
  for (const name of ["bin", "dev", "etc", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "var"]) {
    await mkdir(join(directory, name));
    await chmod(join(directory, name), name === "tmp" ? 0o1777 : 0o755);
  }
  await put("bin/busybox", await loadStaticBusybox(cacheDir, signal), 0o755);
  for (const name of ["sh", "ls", "cat", "mount", "uname", "reboot", "ps", "dmesg", "ip", "ping", "vi"])
    await symlink("busybox", join(directory, "bin", name));
  await put("sbin/init", busyboxInit, 0o755);
  await put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644);
  await put("etc/group", "root:x:0:\n", 0o644);
  await undate(directory);
}

async function unpackTar(archive: string, directory: string, signal?: AbortSignal): Promise<void> {
  await run(
    "tar",
    [
      ...["--extract", "--file", archive, "--directory", directory, "--numeric-owner", "--same-owner"],
      ...["--preserve-permissions", "--delay-directory-restore", "--xattrs", "--xattrs-include=*"],
    ],
    {
      timeoutMs: 1_800_000,
      env: { ...process.env, LC_ALL: "C", TAR_OPTIONS: "" },
      ...(signal && { signal }),
    },
  );
}

/** A Debian system as a tar archive. */
async function bootstrapDebian(
  source: RootfsSource & { kind: "debian-suite" },
  archive: string,
  signal?: AbortSignal,
): Promise<void> {
  const { suite, packages, mirror } = source;
  if (!suitePattern.test(suite))
    throw new TinderboxError("INVALID", `suite ${JSON.stringify(suite)} is not the name of a Debian suite`);
  const wrong = packages.find((name) => !packagePattern.test(name));
  if (wrong !== undefined)
    throw new TinderboxError("INVALID", `${JSON.stringify(wrong)} is not the name of a Debian package`);
  if (mirror !== undefined && !/^https?:\/\/[^\s]+$/.test(mirror))
    throw new TinderboxError("INVALID", `mirror ${JSON.stringify(mirror)} is not an http or https address`);
  await run(
    "mmdebstrap",
    [
      ...["--variant=minbase", "--format=tar", "--quiet"],
      ...(packages.length > 0 ? [`--include=${packages.join(",")}`] : []),
      ...[suite, archive, ...(mirror === undefined ? [] : [mirror])],
    ],
    // The date of what mmdebstrap writes itself; packages' files keep theirs.
    {
      timeoutMs: 1_800_000,
      env: { ...process.env, LC_ALL: "C", SOURCE_DATE_EPOCH: "0" },
      ...(signal && { signal }),
    },
  );
}

/** MiB that the tree's content takes in an ext4 image. */
async function neededMib(directory: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    const { size } = await lstat(join(entry.parentPath, entry.name));
    bytes += Math.ceil(size / blockBytes) * blockBytes + inodeBytes;
  }
  return Math.ceil((bytes * 1.25) / (1 << 20)) + 32;
}

/**
 * Makes the root file system image. The same source gives the same bytes (a Debian suite, as long as its packages
 * are the same).
 *
 * @throws {TinderboxError} UNSUPPORTED unless run by root, TOOL_MISSING without mke2fs, tar or mmdebstrap
 */
export async function buildRootfs(options: BuildRootfsOptions): Promise<void> {
  const { source, sizeMib, init, cacheDir = packageCacheDirectory, signal } = options;
  const output = resolve(options.output);
  const report = (message: string): void => options.onProgress?.({ step: "rootfs", message });
  if (process.getuid?.() !== 0)
    throw new TinderboxError(
      "UNSUPPORTED",
      "a root file system can only be made by root: its files belong to root",
    );
  if (sizeMib !== undefined && !(Number.isInteger(sizeMib) && sizeMib >= 8 && sizeMib <= maxSizeMib))
    throw new TinderboxError(
      "INVALID",
      `size ${sizeMib} MiB: must be a whole number from 8 to ${maxSizeMib}`,
    );
  if (source.kind === "tar" || source.kind === "squashfs") await stat(source.path);

  await mkdir(dirname(output), { recursive: true });
  // Private, as a hostile archive may hold device nodes and set-user-id programs.
  const workDir = await mkdtemp(join(dirname(output), ".rootfs-"));
  try {
    const directory = join(workDir, "root");
    await mkdir(directory);
    await chmod(directory, 0o755);
    if (source.kind === "busybox") {
      report("a busybox system");
      await fillWithBusybox(directory, cacheDir, signal);
    } else if (source.kind === "squashfs") {
      report("unpacking the image");
      await run("unsquashfs", ["-quiet", "-no-progress", "-force", "-dest", directory, source.path], {
        timeoutMs: 1_800_000,
        ...(signal && { signal }),
      });
    } else {
      let archive = source.kind === "tar" ? source.path : join(workDir, "suite.tar");
      archive = resolve(archive);
      if (source.kind === "debian-suite") {
        report(
          `Debian ${source.suite}${source.packages.length > 0 ? ` with ${source.packages.join(", ")}` : ""}`,
        );
        await bootstrapDebian(source, archive, signal);
      }
      report("unpacking the archive");
      await unpackTar(archive, directory, signal);
    }
    const files: ImageFile[] = [];
    if (init !== undefined) files.push({ path: "/sbin/init", source: resolve(init), mode: 0o755 });
    report("ext4 image");
    await makeExt4Image({
      directory,
      output,
      sizeMib: sizeMib ?? (await neededMib(directory)),
      files,
      ...(signal && { signal }),
    });
  } finally {
    await rm(workDir, { recursive: true, force: true });
  }
}
