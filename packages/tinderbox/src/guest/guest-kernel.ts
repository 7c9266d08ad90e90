/** Which kernel a guest gets: the distribution's stock one, as a package, or one the user brings. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import {
  type DebianPackage,
  downloadDebianPackage,
  findDebianPackage,
  sha256OfFile,
  unpackDebianPackage,
} from "./debian-package.ts";
import type { GuestProgress } from "./guest-progress.ts";

/** A kernel to be had, not yet fetched. */
export type KernelSource =
  | { readonly kind: "packages"; readonly packages: readonly DebianPackage[] }
  | {
      readonly kind: "file";
      readonly path: string;
      readonly sha256: string;
      readonly modulesDir: string | undefined;
    };

/** A kernel at hand. */
export type FetchedKernel = {
  /** bzImage, ELF or Image */
  readonly image: Buffer;
  /** /lib/modules/RELEASE or one like it; undefined = everything is built in */
  readonly modulesDir: string | undefined;
};

const debianArchitectures: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64" };

/** The stock kernel's packages: the image that Debian's newest cloud (else generic) kernel stands for. */
async function findStockKernel(signal?: AbortSignal): Promise<readonly DebianPackage[]> {
  const architecture = debianArchitectures[process.arch];
  if (architecture === undefined)
    throw new TinderboxError(
      "UNSUPPORTED",
      `no guest kernel for ${process.arch}: x64 and arm64 are supported`,
    );
  const names = [`linux-image-cloud-${architecture}`, `linux-image-${architecture}`];
  for (const name of names) {
    const meta = await findDebianPackage(name, signal);
    const image = meta?.dependencies.find((one) => one.startsWith("linux-image-"));
    const found = image === undefined ? undefined : await findDebianPackage(image, signal);
    if (found === undefined) continue;
    // Newer releases keep the modules in a package of their own.
    const others = found.dependencies.filter((one) => one.startsWith("linux-modules-"));
    const packages = await Promise.all(others.map((one) => findDebianPackage(one, signal)));
    return [found, ...packages.filter((one) => one !== undefined)];
  }
  throw new TinderboxError("NOT_FOUND", `apt knows none of ${names.join(", ")}`, {
    hint: "run apt-get update, or give a kernel of your own with --kernel (and --modules)",
  });
}

/** Decides on the kernel, without downloading anything. */
export async function resolveKernel(
  options: { readonly kernel?: string | undefined; readonly modulesDir?: string | undefined },
  signal?: AbortSignal,
): Promise<KernelSource> {
  const { kernel, modulesDir } = options;
  if (kernel !== undefined)
    return { kind: "file", path: kernel, sha256: await sha256OfFile(kernel, signal), modulesDir };
  if (modulesDir !== undefined)
    throw new TinderboxError("INVALID", `modules directory ${modulesDir} without the kernel it belongs to`, {
      hint: "give both, or neither for the stock kernel",
    });
  return { kind: "packages", packages: await findStockKernel(signal) };
}

/** What of the source tells two kernels apart. */
export function kernelIdentity(source: KernelSource): string {
  return source.kind === "file"
    ? `${source.sha256} ${source.modulesDir ?? ""}`
    : source.packages.map(({ name, version, sha256 }) => `${name} ${version} ${sha256}`).join(", ");
}

/** Fetches the kernel; packages are unpacked below `workDir`. */
export async function fetchKernel(
  source: KernelSource,
  cacheDir: string,
  workDir: string,
  report: (progress: GuestProgress) => void,
  signal?: AbortSignal,
): Promise<FetchedKernel> {
  if (source.kind === "file") return { image: await readFile(source.path), modulesDir: source.modulesDir };
  const root = join(workDir, "kernel");
  for (const one of source.packages) {
    const progress = { step: "download", totalBytes: one.sizeBytes } as const;
    report({ ...progress, doneBytes: 0, message: `${one.name} ${one.version}` });
    const deb = await downloadDebianPackage(one, cacheDir, signal);
    report({ ...progress, doneBytes: one.sizeBytes, message: `${one.name} ${one.version}` });
    await unpackDebianPackage(deb, root, signal);
  }
  const only = async (directory: string, pattern: RegExp): Promise<string> => {
    const found = (await readdir(directory).catch(() => [])).filter((name) => pattern.test(name));
    const [first] = found;
    if (first === undefined || found.length > 1)
      throw new TinderboxError("INVALID", `kernel package: ${found.length} files ${pattern} instead of one`);
    return join(directory, first);
  };
  const image = await readFile(await only(join(root, "boot"), /^vmlinuz-/));
  // With a merged /usr, packages put the modules below usr/.
  const modulesDir = await only(join(root, "lib/modules"), /^\d/).catch(() =>
    only(join(root, "usr/lib/modules"), /^\d/),
  );
  return { image, modulesDir };
}
