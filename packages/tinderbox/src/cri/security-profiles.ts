/** What is refused in security contexts: profiles that would not be applied must not look as if they were. */
import { existsSync } from "node:fs";
import type { SELinuxOption, SecurityProfile } from "../rpc/gen/runtime/v1/api_pb.ts";
import { SecurityProfile_ProfileType } from "../rpc/gen/runtime/v1/api_pb.ts";
import { invalid, refuse } from "./field-checks.ts";

/** Seccomp and AppArmor profiles: the runtime's default and none are accepted, a file or name of the host's is not. */
export function checkProfile(path: string, profile: SecurityProfile | undefined): void {
  if (profile === undefined) return;
  const known: readonly number[] = Object.values(SecurityProfile_ProfileType);
  if (!known.includes(profile.profileType))
    throw invalid(`${path}.profile_type`, profile.profileType, "0 (RuntimeDefault) or 1 (Unconfined)");
  refuse(
    profile.profileType === SecurityProfile_ProfileType.Localhost,
    path,
    `Localhost ${profile.localhostRef}`,
    "only RuntimeDefault and Unconfined",
  );
}

/** The text forms that older clients send. */
export function checkProfileText(path: string, value: string): void {
  refuse(
    !["", "unconfined", "runtime/default", "docker/default"].includes(value),
    path,
    value,
    "only runtime/default and unconfined",
  );
}

/** Any SELinux label is refused. */
export function checkSelinux(path: string, options: SELinuxOption | undefined): void {
  const label =
    options === undefined
      ? ""
      : [options.user, options.role, options.type, options.level].filter((part) => part !== "").join(":");
  refuse(label !== "", path, label, "SELinux labels are not set");
}

/** Relabelling has nothing to do where the host has no SELinux, so only there it is accepted. */
export function checkRelabel(path: string, wanted: boolean): void {
  refuse(
    wanted && existsSync("/sys/fs/selinux/enforce"),
    path,
    wanted,
    "volumes are not relabelled for SELinux",
  );
}
