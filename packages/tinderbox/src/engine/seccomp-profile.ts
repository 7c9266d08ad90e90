/** Seccomp filters as OCI's `linux.seccomp`: the default one of the runtime, and those that an administrator keeps in files. */
import { open } from "node:fs/promises";
import { TinderboxError } from "../base/errors.ts";
import { allowedSyscalls, capabilitySyscalls, refusedSyscalls } from "./seccomp-syscalls.ts";

/** What a container asks for; `path` is a file of the host. */
export type SeccompChoice =
  | { readonly kind: "unconfined" }
  | { readonly kind: "default" }
  | { readonly kind: "file"; readonly path: string };

const allow = "SCMP_ACT_ALLOW";
const errno = "SCMP_ACT_ERRNO";
const EPERM = 1;
const ENOSYS = 38;

const architectures: Readonly<Partial<Record<NodeJS.Architecture, readonly string[]>>> = {
  x64: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  arm64: ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
};

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET */
const namespaceFlags = 0x7e020000;
/** Linux, SVR4-like 32-bit, and both with the uname of 2.6; the last asks which one is set */
const personalities = [0x0, 0x8, 0x20000, 0x20008, 0xffffffff];
/** Beside the containers of a microVM lies the agent, on vsock. */
const afVsock = 40;

/** The default filter for a process with these capabilities (`CAP_` names). */
export function defaultSeccomp(capabilities: readonly string[]): object {
  const has = new Set(capabilities.map((name) => name.replace(/^CAP_/, "")));
  const granted = new Set<string>();
  const guarded = new Set<string>(refusedSyscalls);
  for (const [capability, syscalls] of Object.entries(capabilitySyscalls))
    for (const name of syscalls) (has.has(capability) ? granted : guarded).add(name);
  for (const name of [...granted, "clone", "clone3"]) guarded.delete(name);
  return {
    defaultAction: errno,
    defaultErrnoRet: ENOSYS,
    architectures: architectures[process.arch] ?? [],
    syscalls: [
      { names: [...allowedSyscalls, ...granted], action: allow },
      { names: [...guarded], action: errno, errnoRet: EPERM },
      ...personalities.map((value) => ({
        names: ["personality"],
        action: allow,
        args: [{ index: 0, value, op: "SCMP_CMP_EQ" }],
      })),
      { names: ["socket"], action: allow, args: [{ index: 0, value: afVsock, op: "SCMP_CMP_NE" }] },
      // clone3 hides its flags in memory, where a filter cannot look: ENOSYS makes libraries fall back to clone.
      ...(granted.has("clone")
        ? []
        : [
            {
              names: ["clone"],
              action: allow,
              args: [{ index: 0, value: namespaceFlags, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }],
            },
          ]),
    ],
  };
}

const maxProfileBytes = 1 << 20;
const profileKeys = ["defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls"];

/** A profile in the OCI runtime's own format. @throws INVALID for anything else: a part left out would be a hole */
export async function readSeccompProfile(path: string): Promise<object> {
  const fault = (why: string, cause?: unknown): TinderboxError =>
    new TinderboxError(
      "INVALID",
      `seccomp profile ${path}: ${why}`,
      cause === undefined
        ? {}
        : { cause, hint: "The file holds linux.seccomp of the OCI runtime specification." },
    );
  let text: string;
  try {
    await using file = await open(path, "r");
    const stat = await file.stat();
    if (!stat.isFile() || stat.size > maxProfileBytes)
      throw fault(`a regular file of at most ${maxProfileBytes} bytes is expected`);
    text = await file.readFile("utf8");
  } catch (cause) {
    if (cause instanceof TinderboxError) throw cause;
    throw fault(TinderboxError.from(cause).message, cause);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw fault("not JSON", cause);
  }
  if (typeof value !== "object" || value === null || !("defaultAction" in value))
    throw fault("an object with defaultAction is expected");
  const unknown = Object.keys(value).find((key) => !profileKeys.includes(key));
  if (unknown !== undefined) throw fault(`${JSON.stringify(unknown)}: ${profileKeys.join(", ")} are allowed`);
  return value;
}
