/** Versions of the VMM, and what "since" means when a change was brought back into older release lines. */
import { FirecrackerArgumentError } from "./errors.ts";

/** `X.Y.Z`; a suffix (`-dev`, `-alpha.1`) is not looked at, so a development build counts as its release. */
export type VmmVersion = {
  /** X */
  readonly major: number;
  /** Y */
  readonly minor: number;
  /** Z */
  readonly patch: number;
};

/** Reads `1.16.1`, `v1.17.0-dev` and the like. @throws {FirecrackerArgumentError} FC_ARGUMENT */
export function parseVmmVersion(text: string): VmmVersion {
  const match = /^v?(\d{1,5})\.(\d{1,5})(?:\.(\d{1,5}))?(?:[-+].*)?$/.exec(text.trim());
  if (!match) throw new FirecrackerArgumentError("version", `${JSON.stringify(text)} is not X.Y.Z`);
  return { major: Number(match[1]), minor: Number(match[2]), patch: Number(match[3] ?? 0) };
}

/** Negative, 0 or positive as `a` is older than, equal to or newer than `b`. */
export function compareVmmVersions(a: VmmVersion, b: VmmVersion): number {
  return a.major - b.major || a.minor - b.minor || a.patch - b.patch;
}

/** Whether `version` has what came with `since`: at least the last of them, or a later patch in the release line of an earlier one. */
export function isSupportedSince(version: VmmVersion, since: readonly string[]): boolean {
  return since.some((text, index) => {
    const first = parseVmmVersion(text);
    if (index === since.length - 1) return compareVmmVersions(version, first) >= 0;
    return version.major === first.major && version.minor === first.minor && version.patch >= first.patch;
  });
}
