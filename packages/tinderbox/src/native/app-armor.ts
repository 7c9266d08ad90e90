/** What this host's kernel has of AppArmor. */
import { existsSync, readFileSync } from "node:fs";

/** Where the kernel says what it has of AppArmor. */
export type AppArmorFiles = { readonly enabled: string; readonly profiles: string };
const hostFiles: AppArmorFiles = {
  enabled: "/sys/module/apparmor/parameters/enabled",
  profiles: "/sys/kernel/security/apparmor/profiles",
};

export function isAppArmorOn(files: AppArmorFiles = hostFiles): boolean {
  return existsSync(files.enabled) && readFileSync(files.enabled, "utf8").startsWith("Y");
}

export function hasProfile(name: string, files: AppArmorFiles = hostFiles): boolean {
  if (!existsSync(files.profiles)) return false;
  const lines = readFileSync(files.profiles, "utf8").split("\n");
  return lines.some((line) => line.replace(/ \(\w+\)$/, "") === name);
}
