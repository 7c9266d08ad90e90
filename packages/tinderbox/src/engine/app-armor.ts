/** AppArmor: the runtime's own profile, and which one a container gets. */
import { TinderboxError } from "../base/errors.ts";
import { isAppArmorOn } from "../native/app-armor.ts";
import { run } from "../native/run.ts";
import { defaultProfileText } from "./app-armor-profile.ts";

/** What a container asks for; `name` is a profile that the host's kernel has loaded. */
export type AppArmorChoice =
  | { readonly kind: "unset" }
  | { readonly kind: "default" }
  | { readonly kind: "unconfined" }
  | { readonly kind: "named"; readonly name: string };

/** The runtime's own profile on this host: AppArmor is not on, it is loaded, or it could not be. */
export type DefaultProfile =
  | { readonly kind: "off" }
  | { readonly kind: "loaded" }
  | { readonly kind: "missing"; readonly why: string };

export const defaultProfileName = "tinderbox-default";

/** Gives the kernel the runtime's own profile in place of an older one; containers that have it already are under the new one then. */
export async function loadDefaultProfile(): Promise<DefaultProfile> {
  if (!isAppArmorOn()) return { kind: "off" };
  try {
    // No cache: the text comes by standard input.
    await run("apparmor_parser", ["--replace", "--skip-cache"], {
      input: defaultProfileText(defaultProfileName),
    });
    return { kind: "loaded" };
  } catch (cause) {
    return { kind: "missing", why: TinderboxError.from(cause).message };
  }
}

/**
 * `process.apparmorProfile` of a container on the host; undefined: it stays as its runtime is. What asks for nothing gets the
 * runtime's own, as with other runtimes, but not where it is privileged. Throws UNSUPPORTED where that is asked for by name and missing.
 */
export function appArmorProfile(
  choice: AppArmorChoice,
  isPrivileged: boolean,
  own: DefaultProfile,
): string | undefined {
  if (choice.kind === "named") return choice.name;
  if (choice.kind === "unconfined" || isPrivileged || own.kind === "off") return undefined;
  if (own.kind === "loaded") return defaultProfileName;
  if (choice.kind === "unset") return undefined;
  throw new TinderboxError(
    "UNSUPPORTED",
    `apparmor RuntimeDefault: the profile ${defaultProfileName} is not loaded: ${own.why}`,
    {
      hint: "Install apparmor_parser (apt-get install apparmor), and start the daemon again.",
    },
  );
}
