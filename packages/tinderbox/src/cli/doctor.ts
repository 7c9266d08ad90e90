/** `tinderbox doctor`: what this host has and lacks for each handler, and the command that would mend it. */
import { readdirSync, readFileSync, statfsSync } from "node:fs";
import { styleText } from "node:util";
import { TinderboxError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import { binDirectory, guestDirectory, nativeProgram } from "../base/paths.ts";
import { CdiRegistry } from "../cdi/cdi-registry.ts";
import { defaultSpecDirs } from "../cdi/contract.ts";
import { chooseJailer } from "../guest/choose-jailer.ts";
import { bootTest, chooseVmm } from "../guest/choose-vmm.ts";
import { loadGuest } from "../guest/guest-artefacts.ts";
import { isAppArmorOn } from "../native/app-armor.ts";
import { criuSupport } from "../native/criu-support.ts";
import { findProgram } from "../native/find-program.ts";
import { describeEscapes, findKnownEscapes, knownEscapes } from "../native/known-escapes.ts";
import { tryRun } from "../native/run.ts";
import type { GlobalOptions } from "./cri-clients.ts";
import { printJson } from "./output.ts";
import { isListening } from "./private-daemon.ts";

type Finding = {
  readonly what: string;
  /** `missing` makes something impossible, `note` does not */
  readonly state: "ok" | "missing" | "note";
  readonly detail: string;
  /** What to type */
  readonly fix?: string;
};

const ok = (what: string, detail: string): Finding => ({ what, state: "ok", detail });
const missing = (what: string, detail: string, fix: string): Finding => ({
  what,
  state: "missing",
  detail,
  fix,
});
const note = (what: string, detail: string, fix?: string): Finding => ({
  what,
  state: "note",
  detail,
  ...(fix === undefined ? {} : { fix }),
});

/** Programs, what each is for, and Debian's package of it. */
const programs = [
  ["crun", "the handler crun, and containers in guests", "crun"],
  ["runc", "the handler runc", "runc"],
  ["qemu-system-x86_64", "microVMs without usable KVM", "qemu-system-x86"],
  ["setpriv", "children that end with their parent", "util-linux"],
  ["sqfstar", "image files", "squashfs-tools"],
  ["mkfs.ext4", "scratch drives of microVMs", "e2fsprogs"],
  ["tc", "joining a pod's veth to its tap", "iproute2"],
  ["ip", "network namespaces", "iproute2"],
] as const;

async function program(name: string, use: string, debianPackage: string): Promise<Finding> {
  const path = await findProgram(name);
  if (path === undefined)
    return missing(name, `not on PATH; it is for ${use}`, `apt-get install ${debianPackage}`);
  if (!(name in knownEscapes)) return ok(name, path);
  const escapes = await findKnownEscapes(path).then(describeEscapes, () => "");
  return escapes === ""
    ? ok(name, path)
    : note(name, `${path}: ${escapes}`, `a newer ${name}, or another handler`);
}

function cgroups(): Finding {
  const isUnified = statfsSync("/sys/fs/cgroup").type === 0x63677270;
  if (isUnified) return ok("cgroups", "version 2");
  const mounts = readFileSync("/proc/self/mountinfo", "utf8");
  const lacking = ["memory", "pids", "cpu"].filter(
    (name) => !new RegExp(`/sys/fs/cgroup/\\S*${name}\\S* .* - cgroup `).test(mounts),
  );
  return lacking.length === 0
    ? ok("cgroups", "version 1")
    : missing("cgroups", `the controllers ${lacking.join(", ")} are not mounted`, "tools/setup.sh cgroups");
}

async function appArmor(): Promise<Finding> {
  if (!isAppArmorOn())
    return note("AppArmor", "the kernel has it not, or switched off: containers are without it");
  const parser = await findProgram("apparmor_parser");
  return parser === undefined
    ? note(
        "AppArmor",
        "apparmor_parser is not on PATH: containers that name no profile are without one",
        "apt-get install apparmor, and start the daemon again",
      )
    : ok("AppArmor", "containers that name no profile get tinderbox-default");
}

async function cniPlugins(): Promise<Finding> {
  const directories = ["/opt/cni/bin", "/usr/lib/cni"];
  for (const directory of directories) {
    const path = await findProgram(`${directory}/bridge`);
    if (path !== undefined) return ok("CNI plugins", directory);
  }
  return missing(
    "CNI plugins",
    `none in ${directories.join(" or ")}`,
    "apt-get install containernetworking-plugins",
  );
}

function cniConfig(): Finding {
  const directory = "/etc/cni/net.d";
  try {
    const name = readdirSync(directory).find((one) => /\.(conf|conflist|json)$/.test(one));
    if (name !== undefined) return ok("CNI configuration", `${directory}/${name}`);
  } catch {
    // The same as an empty one.
  }
  return note(
    "CNI configuration",
    `none in ${directory}: tinderboxd cannot make pod networks (tinderbox run without a daemon brings its own)`,
    "write one: docs/networking.md has an example",
  );
}

async function checkpoints(): Promise<Finding> {
  const asked = await Promise.all(
    ["runc", "crun"].map(async (name) => ({ name, ...(await criuSupport(name)) })),
  );
  const can = asked.flatMap((one) => (one.isSupported ? [`${one.name} by criu ${one.criuVersion}`] : []));
  if (can.length > 0) return ok("checkpoints", can.join(", "));
  const reasons = asked.flatMap((one) => (one.isSupported ? [] : [`${one.name}: ${one.reason}`]));
  const lacksProgram = asked.some((one) => !one.isSupported && one.code === "TOOL_MISSING");
  return note(
    "checkpoints",
    `none: ${reasons.join("; ")}`,
    lacksProgram ? "apt-get install criu runc" : undefined,
  );
}

async function cdiDevices(): Promise<Finding> {
  const { devices, problems } = await new CdiRegistry(defaultSpecDirs).status();
  const where = defaultSpecDirs.join(", ");
  return problems.length === 0
    ? ok("CDI devices", `${devices.length === 0 ? "none" : devices.join(", ")} (${where})`)
    : note("CDI devices", problems.join("; "), "docs/devices.md says what a file must be like");
}

async function microvms(signal: AbortSignal): Promise<readonly Finding[]> {
  const guest = await loadGuest(guestDirectory);
  if (guest === undefined)
    return [missing("guest kernel and initramfs", `not in ${guestDirectory}`, "tinderbox guest build")];
  const files = { kernel: guest.vmlinux, initrd: guest.initramfs };
  const found = ok("guest kernel and initramfs", `${guest.kernelRelease}, ${guest.crunVersion}`);
  const logger = createLogger({ level: "error", format: "text" });
  try {
    const vmm = await chooseVmm("auto", files, "/var/lib/tinderbox", logger, signal);
    const began = performance.now();
    const failure = await bootTest(vmm, files, signal);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    return failure === undefined
      ? [found, ok("a microVM", `booted in ${seconds} s with ${vmm}`)]
      : [found, missing("a microVM", `did not boot with ${vmm}: ${failure}`, "make build")];
  } catch (cause) {
    return [found, missing("a microVM", TinderboxError.from(cause).message, "make build")];
  }
}

async function firecracker(signal: AbortSignal): Promise<readonly Finding[]> {
  const path = await findProgram("firecracker");
  if (path === undefined)
    return [note("firecracker", `not on PATH: microVMs run on ${binDirectory}/firecracker-qemu`)];
  const logger = createLogger({ level: "error", format: "text" });
  const jailer = await chooseJailer("auto", path, logger, signal).catch(() => undefined);
  return [
    ok("firecracker", path),
    jailer === undefined
      ? note(
          "jailer",
          "none of firecracker's release, beside it or on PATH: it runs as root, out of a jail",
          `install the jailer of the same release beside ${path}`,
        )
      : ok("jailer", jailer),
  ];
}

async function examine(socket: string, signal: AbortSignal): Promise<readonly Finding[]> {
  const isRoot = process.getuid?.() === 0;
  const native = await tryRun(nativeProgram, ["version"]).catch(() => undefined);
  const [tools, armor, plugins, devices, vmm, machines, listens, checkpointing] = await Promise.all([
    Promise.all(programs.map(([name, use, debianPackage]) => program(name, use, debianPackage))),
    appArmor(),
    cniPlugins(),
    cdiDevices(),
    firecracker(signal),
    isRoot ? microvms(signal) : [],
    isListening(socket),
    checkpoints(),
  ]);
  return [
    isRoot ? ok("root", "yes") : missing("root", "not the superuser", "sudo tinderbox doctor"),
    native?.code === 0
      ? ok("tinderbox-native", nativeProgram)
      : missing("tinderbox-native", `${nativeProgram} does not run`, "make build"),
    cgroups(),
    ...tools,
    armor,
    plugins,
    cniConfig(),
    devices,
    ...vmm,
    checkpointing,
    ...machines,
    listens ? ok("daemon", socket) : note("daemon", `none listens on ${socket}`, "tinderboxd &"),
  ];
}

const marks = { ok: "ok  ", missing: "MISS", note: "note" } as const;
const colours = { ok: "green", missing: "red", note: "yellow" } as const;

/** Prints the findings; exit status 1 when something that is needed is missing. */
export async function doctor(globals: GlobalOptions): Promise<void> {
  const stop = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => stop.abort());
  if (process.stderr.isTTY) process.stderr.write("looking; a microVM is booted, which takes a few seconds\n");
  const findings = await examine(globals.socket, stop.signal);
  if (findings.some(({ state }) => state === "missing")) process.exitCode = 1;
  if (globals.json) return printJson(findings);
  const width = Math.max(...findings.map(({ what }) => what.length));
  const hasColour = process.stdout.isTTY && !process.env["NO_COLOR"];
  for (const { what, state, detail, fix } of findings) {
    const mark = hasColour ? styleText(colours[state], marks[state]) : marks[state];
    process.stdout.write(`${mark}  ${what.padEnd(width)}  ${detail}\n`);
    if (fix !== undefined) process.stdout.write(`${" ".repeat(width + 8)}fix: ${fix}\n`);
  }
}
