/** Everything of a jail that can be decided and refused before anything is made. */
import { randomUUID } from "node:crypto";
import { constants, readFileSync, type Stats } from "node:fs";
import { access, readFile, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { parseHostCgroups, planCgroups } from "./host-cgroups.ts";
import { inspectPath } from "./inspect-path.ts";
import type { JailRecord } from "./jail-record.ts";
import { jailerArgv } from "./jailer-argv.ts";
import { FirecrackerJailerError } from "./jailer-error.ts";
import { checkJailerOptions, type JailerOptions } from "./jailer-options.ts";

/** A jail to be made. */
export type JailPlan = {
  /** What it will be */
  readonly record: JailRecord;
  /** The jailer's program */
  readonly jailer: string;
  /** The jailer's arguments, with these for the VMM behind those of the options. @throws {FirecrackerJailerError} FC_JAILER */
  argv(vmmArguments?: readonly string[]): readonly string[];
};

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    (cause: unknown) => {
      if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return false;
      throw cause;
    },
  );

/**
 * Looks at options and host.
 * @throws {FirecrackerJailerError} FC_JAILER naming the option at fault; `id` when there is such a jail already
 */
export async function planJail(options: JailerOptions): Promise<JailPlan> {
  checkJailerOptions(options);
  const isFile = (facts: Stats): boolean => facts.isFile();
  const jailer = await inspectPath("jailerBinary", options.jailerBinary, isFile, "a file");
  await access(jailer, constants.X_OK).catch((cause: unknown) => {
    throw new FirecrackerJailerError("jailerBinary", `${jailer} cannot be executed`, cause);
  });
  const execFile = await inspectPath("execFile", options.execFile, isFile, "a file");
  const base = await inspectPath(
    "chrootBaseDir",
    resolve(options.chrootBaseDir ?? "/srv/jailer"),
    (facts) => facts.isDirectory(),
    "a directory",
  );
  if (options.netns !== undefined) await inspectPath("netns", options.netns, () => true, "there");
  const execName = basename(execFile);
  const host = parseHostCgroups(await readFile("/proc/mounts", "utf8"), (mount) => {
    try {
      return readFileSync(join(mount, "cgroup.controllers"), "utf8");
    } catch {
      return "";
    }
  });
  const cgroups = planCgroups(options, execName, host);
  if (cgroups && cgroups.directories.length === 0) {
    const parent = join(host.v2?.mount ?? "", options.parentCgroup ?? execName);
    await inspectPath("parentCgroup", parent, (facts) => facts.isDirectory(), "a cgroup");
  }
  const parents: string[] = [];
  // A parent that somebody named and made is theirs; the default one belongs to nobody but jails.
  for (const parent of cgroups?.parents ?? [])
    if (options.parentCgroup === undefined || !(await exists(parent))) parents.push(parent);
  const directory = join(base, execName, options.id);
  const record: JailRecord = {
    id: options.id,
    token: randomUUID(),
    uid: options.uid,
    gid: options.gid,
    directory,
    root: join(directory, "root"),
    execName,
    cgroups: cgroups?.directories ?? [],
    cgroupParents: parents,
    takenFiles: [],
    stagedFiles: [],
  };
  for (const path of [directory, ...record.cgroups])
    if (await exists(path))
      throw new FirecrackerJailerError("id", `${path} exists already; a jail cannot be used twice`);
  return {
    record,
    jailer,
    argv(vmmArguments = []) {
      const firecrackerArgs = [...(options.firecrackerArgs ?? []), ...vmmArguments];
      const whole = { ...options, execFile, chrootBaseDir: base, firecrackerArgs };
      checkJailerOptions(whole);
      return jailerArgv(whole, cgroups);
    },
  };
}
