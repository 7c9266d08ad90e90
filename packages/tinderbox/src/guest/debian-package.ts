/**
 * Debian packages as files: found with apt's lists, downloaded with apt-get (which checks the archive's signature)
 * into a cache, unpacked with dpkg-deb. Nothing is installed on the host.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { TinderboxError } from "../base/errors.ts";
import { run, tryRun } from "../native/run.ts";

/** A package at the version that apt would install. */
export type DebianPackage = {
  readonly name: string;
  readonly version: string;
  /** Of the .deb file, 64 hex digits */
  readonly sha256: string;
  readonly sizeBytes: number;
  /** Names it depends on, the first of alternatives */
  readonly dependencies: readonly string[];
};

const downloadTimeoutMs = 15 * 60_000;
// apt answers in the user's language otherwise.
const env = { ...process.env, LC_ALL: "C" };
const namePattern = /^[a-z0-9][a-z0-9.+-]+$/;

/** The SHA-256 of a file, hex. */
export async function sha256OfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash, { ...(signal && { signal }) });
  return hash.digest("hex");
}

/** What apt knows of `name`, undefined when its lists have no such package. */
export async function findDebianPackage(
  name: string,
  signal?: AbortSignal,
): Promise<DebianPackage | undefined> {
  if (!namePattern.test(name))
    throw new TinderboxError("INVALID", `${JSON.stringify(name)} is not a package name`);
  const result = await tryRun("apt-cache", ["show", "--no-all-versions", name], {
    env,
    ...(signal && { signal }),
  });
  if (result.code !== 0) return undefined;
  const field = (key: string): string | undefined =>
    new RegExp(`^${key}: (.+)$`, "m").exec(result.stdout)?.[1];
  const [found, version, sha256, size] = ["Package", "Version", "SHA256", "Size"].map(field);
  if (found !== name || version === undefined || size === undefined || !/^[0-9a-f]{64}$/.test(sha256 ?? ""))
    return undefined;
  const dependencies = [field("Pre-Depends"), field("Depends")]
    .flatMap((list) => list?.split(",") ?? [])
    .map((one) => /[a-z0-9][a-z0-9.+-]*/.exec(one)?.[0] ?? "");
  return { name, version, sha256: sha256 ?? "", sizeBytes: Number(size), dependencies };
}

/** The package's .deb file in `cacheDir`, downloaded when it is not there yet. */
export async function downloadDebianPackage(
  wanted: DebianPackage,
  cacheDir: string,
  signal?: AbortSignal,
): Promise<string> {
  const path = join(cacheDir, `${wanted.name}-${wanted.sha256.slice(0, 16)}.deb`);
  const present = await stat(path).catch(() => undefined);
  if (present?.size === wanted.sizeBytes && (await sha256OfFile(path, signal)) === wanted.sha256) return path;
  await mkdir(cacheDir, { recursive: true });
  const directory = await mkdtemp(join(cacheDir, "download-"));
  try {
    // apt would drop root's rights for the download and then cannot write into a private directory.
    const options = ["-q", "-o", "APT::Sandbox::User=root"];
    await run("apt-get", [...options, "download", `${wanted.name}=${wanted.version}`], {
      cwd: directory,
      env,
      timeoutMs: downloadTimeoutMs,
      ...(signal && { signal }),
    });
    const file = (await readdir(directory)).find((name) => name.endsWith(".deb"));
    if (file === undefined)
      throw new TinderboxError("TOOL_FAILED", `apt-get download ${wanted.name}: no .deb file appeared`);
    const found = await sha256OfFile(join(directory, file), signal);
    if (found !== wanted.sha256)
      throw new TinderboxError(
        "TOOL_FAILED",
        `${file}: SHA-256 ${found}, but apt's lists say ${wanted.sha256}`,
      );
    await rename(join(directory, file), path);
    return path;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Unpacks a package's files below `directory`. */
export async function unpackDebianPackage(
  deb: string,
  directory: string,
  signal?: AbortSignal,
): Promise<void> {
  await run("dpkg-deb", ["--extract", deb, directory], { timeoutMs: 300_000, ...(signal && { signal }) });
}
