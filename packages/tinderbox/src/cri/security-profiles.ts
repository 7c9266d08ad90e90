/** Profiles in security contexts: seccomp's are obeyed, AppArmor's where the host has it, SELinux labels are refused. */
import { existsSync } from "node:fs";
import type { AppArmorChoice } from "../engine/app-armor.ts";
import type { SeccompChoice } from "../engine/seccomp-profile.ts";
import { type AppArmorFiles, hasProfile, isAppArmorOn } from "../native/app-armor.ts";
import type { SELinuxOption, SecurityProfile } from "../rpc/gen/runtime/v1/api_pb.ts";
import { SecurityProfile_ProfileType } from "../rpc/gen/runtime/v1/api_pb.ts";
import { absolutePath, invalid, plainText, refuse } from "./field-checks.ts";

type Profile =
  | { readonly kind: "unset" }
  | { readonly kind: "unconfined" }
  | { readonly kind: "default" }
  | { readonly kind: "localhost"; readonly reference: string };

const localhost = "localhost/";
const withoutPrefix = (text: string): string =>
  text.startsWith(localhost) ? text.slice(localhost.length) : text;

/** The message form, or where that is unset the text form that older clients send; some write the text's prefix in the message too. */
function parseProfile(path: string, profile: SecurityProfile | undefined, text: string): Profile {
  if (profile === undefined) {
    if (text === "") return { kind: "unset" };
    if (text === "unconfined") return { kind: "unconfined" };
    if (text === "runtime/default" || text === "docker/default") return { kind: "default" };
    if (text.startsWith(localhost)) return { kind: "localhost", reference: withoutPrefix(text) };
    throw invalid(path, text, "runtime/default, unconfined or localhost/PROFILE");
  }
  if (profile.localhostRef !== "" && profile.profileType !== SecurityProfile_ProfileType.Localhost)
    throw invalid(
      `${path}.localhost_ref`,
      profile.localhostRef,
      "empty unless profile_type is 2 (Localhost)",
    );
  switch (profile.profileType) {
    case SecurityProfile_ProfileType.RuntimeDefault:
      return { kind: "default" };
    case SecurityProfile_ProfileType.Unconfined:
      return { kind: "unconfined" };
    case SecurityProfile_ProfileType.Localhost:
      return { kind: "localhost", reference: withoutPrefix(profile.localhostRef) };
    default:
      throw invalid(
        `${path}.profile_type`,
        profile.profileType,
        "0 (RuntimeDefault), 1 (Unconfined) or 2 (Localhost)",
      );
  }
}

/** Seccomp of a pod or container; none asked for is none, as the CRI says. */
export function parseSeccomp(
  path: string,
  profile: SecurityProfile | undefined,
  text: string,
): SeccompChoice {
  const parsed = parseProfile(path, profile, text);
  if (parsed.kind === "localhost")
    return { kind: "file", path: absolutePath(`${path}.localhost_ref`, parsed.reference) };
  return { kind: parsed.kind === "default" ? "default" : "unconfined" };
}

/** The AppArmor profile of a pod or container. One by name is refused where the host has no AppArmor, and where it is not loaded. */
export function parseAppArmor(
  path: string,
  profile: SecurityProfile | undefined,
  text: string,
  files?: AppArmorFiles,
): AppArmorChoice {
  const parsed = parseProfile(path, profile, text);
  if (parsed.kind !== "localhost") return parsed;
  const name = plainText(`${path}.localhost_ref`, parsed.reference, 1, 4096);
  refuse(!isAppArmorOn(files), path, `Localhost ${name}`, "AppArmor is not enabled on this host");
  if (!hasProfile(name, files))
    throw invalid(`${path}.localhost_ref`, name, "a profile that is loaded (see apparmor_status)");
  return { kind: "named", name };
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
