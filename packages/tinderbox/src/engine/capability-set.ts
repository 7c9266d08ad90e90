/** Capabilities of a container: the default set, what is added and dropped, and what this host can give at all. */
import { readFileSync } from "node:fs";
import { TinderboxError } from "../base/errors.ts";
import type { ContainerSecurity } from "./contract.ts";

/** By number, linux/capability.h. */
const names =
  "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE".split(
    " ",
  );

/** What CRI-O gives by default; no NET_RAW, MKNOD or SYS_CHROOT. */
const defaults = "CHOWN DAC_OVERRIDE FSETID FOWNER SETGID SETUID SETPCAP NET_BIND_SERVICE KILL".split(" ");

/** The capabilities that a process of this host can be given. */
export function hostCapabilities(): ReadonlySet<string> {
  const bounding = /^CapBnd:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  const bits = BigInt(`0x${bounding}`);
  return new Set(names.filter((_, n) => (bits >> BigInt(n)) & 1n));
}

/** `CAP_` names by set */
export type OciCapabilities = Readonly<
  Record<"bounding" | "effective" | "permitted" | "inheritable" | "ambient", readonly string[]>
>;

/** The OCI `process.capabilities`; `available` is what the place can give. */
export function capabilitySet(security: ContainerSecurity, available: ReadonlySet<string>): OciCapabilities {
  const plain = (field: string, list: readonly string[]): readonly string[] =>
    list.map((written) => {
      const name = written.toUpperCase().replace(/^CAP_/, "");
      if (name !== "ALL" && !names.includes(name))
        throw new TinderboxError("INVALID", `${field} ${JSON.stringify(written)}: not a capability of Linux`);
      return name;
    });
  const add = plain("add_capabilities", [...security.addCapabilities, ...security.addAmbientCapabilities]);
  const drop = plain("drop_capabilities", security.dropCapabilities);
  const set = new Set<string>(security.privileged || add.includes("ALL") ? names : defaults);
  if (!security.privileged) {
    if (drop.includes("ALL")) set.clear();
    for (const name of add) set.add(name);
    for (const name of drop) set.delete(name);
  }
  const written = names.filter((name) => set.has(name) && available.has(name)).map((name) => `CAP_${name}`);
  const ambient = plain("add_ambient_capabilities", security.addAmbientCapabilities).map((n) => `CAP_${n}`);
  return {
    bounding: written,
    effective: written,
    permitted: written,
    // Not empty would let a program with file capabilities gain them (CVE-2022-27652); ambient ones need it.
    inheritable: ambient,
    ambient,
  };
}

/** Every capability there is: what a guest, whose kernel is ours, can give. */
export const allCapabilities: ReadonlySet<string> = new Set(names);
