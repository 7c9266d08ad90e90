/** What this host's kernel can do for containers beside the least that is needed. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { release } from "node:os";
import { dirname } from "node:path";
import { hostCapabilities } from "./capability-set.ts";

/** As Status tells them for each handler. */
export type HandlerFeatures = { readonly recursiveReadOnlyMounts: boolean; readonly userNamespaces: boolean };

function isAtLeast(version: string, major: number, minor: number): boolean {
  const [, a = "0", b = "0"] = /^(\d+)\.(\d+)/.exec(version) ?? [];
  return Number(a) > major || (Number(a) === major && Number(b) >= minor);
}

/** Whether cgroup v2 alone is in force on this host. */
export function hostHasCgroupV2(): boolean {
  return existsSync("/sys/fs/cgroup/cgroup.controllers");
}

/** Of what runs on this host: without CAP_SYS_RESOURCE nobody gets lower than the daemon itself. */
export function lowestOomScoreAdj(): number {
  if (hostCapabilities().has("SYS_RESOURCE")) return -1000;
  return Number(readFileSync("/proc/self/oom_score_adj", "utf8"));
}

function isPassable(directory: string): boolean {
  const above = dirname(directory);
  const mode = statSync(directory, { throwIfNoEntry: false })?.mode ?? 0;
  return (mode & 0o1) !== 0 && (above === directory || isPassable(above));
}

/** Of handlers whose containers run on the host. */
export function hostFeatures(stateDir: string, kernel: string = release()): HandlerFeatures {
  const limit = "/proc/sys/user/max_user_namespaces";
  return {
    // mount_setattr
    recursiveReadOnlyMounts: isAtLeast(kernel, 5, 12),
    // id-mapped mounts of squashfs, which images are; and a way to them for who is not root here
    userNamespaces:
      isAtLeast(kernel, 6, 2) &&
      existsSync(limit) &&
      Number(readFileSync(limit, "utf8")) > 0 &&
      isPassable(stateDir),
  };
}
