/** Which known container escapes an OCI runtime on this host has, by its version, or by its Debian package's changelog, which tells of fixes without a new version. */
import { readFile, realpath, stat } from "node:fs/promises";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { findProgram } from "./find-program.ts";
import { tryRun } from "./run.ts";

/** A fault that lets a container out */
export type KnownEscape = {
  readonly cves: readonly string[];
  /** The first version of each branch that has the fix; what is newer than the last has it too */
  readonly fixedIn: readonly string[];
};

export type RuntimeVerdict = {
  readonly program: string;
  /** As the program says, "" when it says none that is known */
  readonly version: string;
  readonly open: readonly KnownEscape[];
  /** A distribution's package, which may have the fix without saying so */
  readonly unclear: readonly KnownEscape[];
};

/** By program. The three of 2025 are runc's alone: crun opens nothing below /proc after its pivot_root. */
export const knownEscapes: Readonly<Record<string, readonly KnownEscape[]>> = {
  runc: [
    { cves: ["CVE-2019-5736"], fixedIn: ["1.0.0"] },
    { cves: ["CVE-2021-30465"], fixedIn: ["1.0.0"] },
    { cves: ["CVE-2024-21626"], fixedIn: ["1.1.12"] },
    { cves: ["CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"], fixedIn: ["1.2.8", "1.3.3", "1.4.0"] },
  ],
  crun: [{ cves: ["CVE-2022-27650"], fixedIn: ["1.4.4"] }],
};

const maxChangelogBytes = 16 << 20;

function numbers(version: string): readonly [number, number, number] {
  const [major = 0, minor = 0, patch = 0] = version.split(".").map((part) => Number.parseInt(part, 10));
  return [major, minor, patch || 0];
}

function compare(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((one, n) => one !== b[n]);
  return at < 0 ? 0 : (a[at] ?? 0) - (b[at] ?? 0);
}

/** Whether `version` has a fix that came in the versions `fixedIn`. A release candidate of one of them counts as without. */
export function hasFix(version: string, fixedIn: readonly string[]): boolean {
  const own = numbers(version);
  const isCandidate = /^\d+(\.\d+)*[-~]rc/.test(version);
  const branches = fixedIn.map(numbers);
  const same = branches.find((one) => one[0] === own[0] && one[1] === own[1]);
  const reference = same ?? branches.at(-1) ?? own;
  const order = compare(own, reference);
  return order > 0 || (order === 0 && !isCandidate);
}

/** The changelog of the Debian package that `path` belongs to; undefined: of no package, "": of one without a changelog. */
async function debianChangelog(path: string): Promise<string | undefined> {
  // A package may know the file by its name before /usr was merged.
  const names = [path, path.replace(/^\/usr/, "")];
  for (const name of names) {
    const found = await tryRun("dpkg-query", ["-S", name]).catch(() => undefined);
    const owner = /^([a-z0-9][a-z0-9+.-]*)(?::[a-z0-9]+)?: /.exec(found?.code === 0 ? found.stdout : "")?.[1];
    if (owner === undefined) continue;
    for (const file of ["changelog.Debian.gz", "changelog.gz"]) {
      const at = `/usr/share/doc/${owner}/${file}`;
      try {
        if ((await stat(at)).size > maxChangelogBytes) continue;
        const text = await promisify(gunzip)(await readFile(at), { maxOutputLength: maxChangelogBytes });
        return text.toString("utf8");
      } catch {
        // Minimal installations have none.
      }
    }
    return "";
  }
  return undefined;
}

/** Looks at the runtime at `path`, or of that name on PATH. @throws TinderboxError when it does not run */
export async function findKnownEscapes(path: string): Promise<RuntimeVerdict> {
  const file = (await findProgram(path)) ?? path;
  const { stdout } = await tryRun(file, ["--version"], { timeoutMs: 10_000 });
  const [, program = "", version = ""] = /^(\w+) version (\S+)/.exec(stdout) ?? [];
  const suspected = (knownEscapes[program] ?? []).filter(({ fixedIn }) => !hasFix(version, fixedIn));
  if (suspected.length === 0) return { program, version, open: [], unclear: [] };
  const changelog = await debianChangelog(await realpath(file));
  const left = suspected.filter(({ cves }) => !cves.every((cve) => changelog?.includes(cve)));
  return changelog === ""
    ? { program, version, open: [], unclear: left }
    : { program, version, open: left, unclear: [] };
}

/** One line about a verdict; "" when there is nothing to say. */
export function describeEscapes({ program, version, open, unclear }: RuntimeVerdict): string {
  const say = (escapes: readonly KnownEscape[]): string =>
    escapes
      .map(({ cves, fixedIn }) => `${cves.join(", ")} (mended in ${program} ${fixedIn.join(", ")})`)
      .join("; ");
  return [
    ...(open.length === 0 ? [] : [`${program} ${version} has known container escapes: ${say(open)}`]),
    ...(unclear.length === 0
      ? []
      : [`cannot tell whether this package of ${program} ${version} has these mended: ${say(unclear)}`]),
  ].join("; ");
}
