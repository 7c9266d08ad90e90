/** Where the host has its cgroups mounted, read as the jailer reads it, and which of its directories a jail will have. */
import { join } from "node:path";
import { FirecrackerJailerError } from "./jailer-error.ts";
import { type CgroupSetting, controllerOf } from "./jailer-options.ts";

/** The host's cgroup mounts. */
export type HostCgroups = {
  /** Controller to mount point, version 1 */
  readonly v1: ReadonlyMap<string, string>;
  readonly v2: { readonly mount: string; readonly controllers: ReadonlySet<string> } | undefined;
};

/** What the jailer is told of cgroups and what it will make; undefined when it is told nothing. */
export type CgroupPlan =
  | undefined
  | {
      readonly version: 1 | 2;
      /** The jail's own directories; empty when the VMM only moves into an existing parent */
      readonly directories: readonly string[];
      /** The directories above them up to the mount, the deepest first */
      readonly parents: readonly string[];
    };

const unescapeMount = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_whole, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

/** Reads the text of /proc/mounts; `controllersOf` gives a cgroup v2 mount's cgroup.controllers. */
export function parseHostCgroups(procMounts: string, controllersOf: (mount: string) => string): HostCgroups {
  const v1 = new Map<string, string>();
  let v2: HostCgroups["v2"];
  for (const line of procMounts.split("\n")) {
    const [, point = "", type, options = ""] = line.split(" ");
    const mount = unescapeMount(point);
    if (type === "cgroup2" && v2 === undefined)
      v2 = { mount, controllers: new Set(controllersOf(mount).split(/\s+/).filter(Boolean)) };
    if (type !== "cgroup") continue;
    for (const option of options.split(",")) if (!v1.has(option)) v1.set(option, mount);
  }
  return { v1, v2 };
}

/** What of `cgroups` a version of this host lacks: the index of the first, or undefined when it has them all. */
function firstMissing(
  cgroups: readonly CgroupSetting[],
  host: HostCgroups,
  version: 1 | 2,
): number | undefined {
  const has = (setting: CgroupSetting): boolean =>
    version === 2
      ? (host.v2?.controllers.has(controllerOf(setting)) ?? false)
      : host.v1.has(controllerOf(setting));
  const index = cgroups.findIndex((setting) => !has(setting));
  return index < 0 ? undefined : index;
}

/**
 * Decides the version and names the directories.
 * @throws {FirecrackerJailerError} FC_JAILER when the host has no such version, or lacks a controller in it
 */
export function planCgroups(
  options: {
    readonly id: string;
    readonly cgroups?: readonly CgroupSetting[];
    readonly cgroupVersion?: 1 | 2;
    readonly parentCgroup?: string;
  },
  execName: string,
  host: HostCgroups,
): CgroupPlan {
  const cgroups = options.cgroups ?? [];
  const { parentCgroup } = options;
  // Version 2 without settings would move the VMM into a cgroup called like its program, if there happens to be one.
  if (cgroups.length === 0 && parentCgroup === undefined) return undefined;
  const version = options.cgroupVersion ?? (host.v2 && firstMissing(cgroups, host, 2) === undefined ? 2 : 1);
  const parent = parentCgroup ?? execName;
  if (version === 2 ? host.v2 === undefined : host.v1.size === 0)
    throw new FirecrackerJailerError(
      "cgroupVersion",
      `cgroup version ${version} is not mounted on this host`,
    );
  if (cgroups.length === 0) {
    if (version === 1)
      throw new FirecrackerJailerError(
        "parentCgroup",
        `${JSON.stringify(parent)} has no effect in cgroup version 1 without cgroups`,
      );
    return { version, directories: [], parents: [] };
  }
  const missing = firstMissing(cgroups, host, version);
  if (missing !== undefined) {
    const controller = controllerOf(cgroups[missing] ?? ".=");
    throw new FirecrackerJailerError(
      `cgroups[${missing}]`,
      `this host has no controller ${JSON.stringify(controller)} in cgroup version ${version}`,
    );
  }
  const mounts =
    version === 2
      ? [host.v2?.mount ?? ""]
      : [...new Set(cgroups.map((setting) => host.v1.get(controllerOf(setting)) ?? ""))];
  const parts = parent.split("/");
  return {
    version,
    directories: mounts.map((mount) => join(mount, parent, options.id)),
    parents: mounts.flatMap((mount) =>
      parts.map((_part, index) => join(mount, ...parts.slice(0, parts.length - index))),
    ),
  };
}
