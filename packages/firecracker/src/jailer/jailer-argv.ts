/** The jailer's command line, from options that were checked. */
import { resolve } from "node:path";
import type { CgroupPlan } from "./host-cgroups.ts";
import type { JailerOptions } from "./jailer-options.ts";

/** Arguments for the jailer, without its own path. Pure but for relative paths, which count from the working directory. */
export function jailerArgv(options: JailerOptions, cgroups: CgroupPlan): readonly string[] {
  const { resourceLimits } = options;
  const argv = [
    "--id",
    options.id,
    "--exec-file",
    resolve(options.execFile),
    "--uid",
    String(options.uid),
    "--gid",
    String(options.gid),
    "--chroot-base-dir",
    resolve(options.chrootBaseDir ?? "/srv/jailer"),
  ];
  if (options.netns !== undefined) argv.push("--netns", resolve(options.netns));
  if (options.daemonize) argv.push("--daemonize");
  if (options.newPidNs) argv.push("--new-pid-ns");
  // Said always when cgroups are used: the jailer's own default is 1, and fails on a host with version 2 only.
  if (cgroups) argv.push("--cgroup-version", String(cgroups.version));
  for (const setting of options.cgroups ?? []) argv.push("--cgroup", setting);
  if (options.parentCgroup !== undefined) argv.push("--parent-cgroup", options.parentCgroup);
  if (resourceLimits?.fsizeBytes !== undefined)
    argv.push("--resource-limit", `fsize=${resourceLimits.fsizeBytes}`);
  if (resourceLimits?.noFile !== undefined) argv.push("--resource-limit", `no-file=${resourceLimits.noFile}`);
  if (options.firecrackerArgs?.length) argv.push("--", ...options.firecrackerArgs);
  return argv;
}
