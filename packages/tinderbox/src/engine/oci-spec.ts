/**
 * The OCI runtime configuration of a container: from CRI's request, the image and the kind of place it will run in.
 * Pure; what the place must fill in is named with "@" (see the agent's protocol).
 */
import { isDeepStrictEqual } from "node:util";
import { TinderboxError } from "../base/errors.ts";
import type { ContainerEdits } from "../cdi/contract.ts";
import type { Image } from "../image/contract.ts";
import type { IdMaps } from "../network/contract.ts";
import { appArmorProfile, type DefaultProfile } from "./app-armor.ts";
import { capabilitySet } from "./capability-set.ts";
import { cdiDevices, cdiHooks, withCdiMounts } from "./cdi-edits.ts";
import { resolveContainerUser } from "./container-user.ts";
import type { Container, ContainerConfig, PodConfig } from "./contract.ts";
import { type AllowedDevice, allHostDevices, requestedDevice } from "./host-devices.ts";
import { ociMounts } from "./oci-mounts.ts";
import { ociResources } from "./oci-resources.ts";
import { defaultSeccomp } from "./seccomp-profile.ts";

/** What the spec depends on beside the request. */
export type PlaceFacts = {
  readonly place: "host" | "microvm";
  readonly podCgroupPath: string;
  /** What the pod's containers share as /dev/shm; undefined: nothing */
  readonly shmPath: string | undefined;
  readonly hasCgroupV2: boolean;
  readonly capabilities: ReadonlySet<string>;
  /** No process of ours may have a lower one without the right to */
  readonly lowestOomScoreAdj: number;
  readonly hostname: string;
  /** What the container's CDI devices change; in a microVM the variables only */
  readonly edits: ContainerEdits;
  /** What the kernel there has of the runtime's own profile */
  readonly appArmor: DefaultProfile;
  /** `linux.seccomp` from the file that the request names, when it names one */
  readonly seccompFile: object | undefined;
};

export type OciProcess = {
  readonly terminal: boolean;
  readonly user: { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[] };
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly [field: string]: unknown;
};

export type BuiltSpec = {
  readonly spec: { readonly process: OciProcess; readonly [field: string]: unknown };
  readonly user: Container["user"];
};

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

function processArgs(config: ContainerConfig, image: Image): readonly string[] {
  const entrypoint = config.command.length > 0 ? config.command : image.config.entrypoint;
  const useCmd = config.command.length === 0 && config.args.length === 0;
  const args = [...entrypoint, ...(useCmd ? image.config.cmd : config.args)];
  if (args.length === 0)
    throw new TinderboxError(
      "INVALID",
      "command: empty, and the image has neither an entrypoint nor a command",
    );
  return args;
}

function processEnv(
  config: ContainerConfig,
  image: Image,
  { hostname, edits }: PlaceFacts,
): readonly string[] {
  const env = new Map<string, string>();
  if (config.tty) env.set("TERM", "xterm");
  env.set("HOSTNAME", hostname);
  const add = (entry: string): void => {
    const at = entry.indexOf("=");
    if (at > 0) env.set(entry.slice(0, at), entry.slice(at + 1));
  };
  image.config.env.forEach(add);
  for (const { key, value } of config.env) env.set(key, value);
  edits.env.forEach(add);
  const list = [...env].map(([key, value]) => `${key}=${value}`);
  const bad = list.find((entry) => entry.includes("\0"));
  if (bad !== undefined)
    throw new TinderboxError("INVALID", `env ${JSON.stringify(bad)}: a NUL byte is not allowed`);
  return env.has("PATH") ? list : [defaultPath, ...list];
}

function namespaces(pod: PodConfig, config: ContainerConfig, facts: PlaceFacts): readonly object[] {
  const { pid, ipc } = config.security;
  const isPrivileged = config.security.privileged;
  const list: { type: string; path?: string }[] = [{ type: "mount" }];
  if (pod.namespaces.network === "pod") {
    list.push({ type: "network", path: "@pod/net" }, { type: "uts", path: "@pod/uts" });
  }
  if (ipc !== "node") list.push({ type: "ipc", path: "@pod/ipc" });
  if (pid.mode === "container") list.push({ type: "pid" });
  else if (pid.mode === "pod") list.push({ type: "pid", path: "@pod/pid" });
  else if (pid.mode === "target") list.push({ type: "pid", path: `@container/${pid.targetId}` });
  if (pod.namespaces.user) list.push({ type: "user", path: "@pod/user" });
  if (facts.hasCgroupV2 && !isPrivileged) list.push({ type: "cgroup" });
  return list;
}

/** What a microVM cannot give is refused by its field's name. */
function refuseForMicrovm(pod: PodConfig, config: ContainerConfig): void {
  const refuse = (field: string, value: string): never => {
    throw new TinderboxError("INVALID", `${field} ${value}: not possible in a microVM`, {
      hint: "Use an OCI runtime handler for this pod, or leave the field out; see LIMITATIONS.md.",
    });
  };
  if (config.security.pid.mode === "node") refuse("namespace_options.pid", "NODE");
  if (config.security.ipc === "node") refuse("namespace_options.ipc", "NODE");
  const user = pod.namespaces.user ?? { uids: [], gids: [] };
  for (const [n, { source, uidMappings, gidMappings }] of config.mounts.entries()) {
    if (source.kind !== "image" || uidMappings.length === 0) continue;
    // In a guest the files of an image are whose they are, as if they were mapped by the pod's.
    if (!isDeepStrictEqual([uidMappings, gidMappings], [user.uids, user.gids]))
      refuse(`mounts[${n}].uidMappings`, "of an image, which are not the pod's own,");
  }
  const { appArmor } = config.security;
  if (appArmor.kind === "named") refuse("apparmor", JSON.stringify(appArmor.name));
}

/** What the request and its CDI devices name; of two at one path the latter. */
function askedDevices(
  pod: PodConfig,
  config: ContainerConfig,
  facts: PlaceFacts,
  user: Container["user"],
): readonly AllowedDevice[] {
  // In a microVM block devices are drives, which only the guest knows the numbers of.
  if (facts.place === "microvm") return [];
  const asked = [...config.devices.map(requestedDevice), ...cdiDevices(facts.edits, user)];
  const byPath = new Map(asked.map((one) => [one.device.path, one]));
  // No node can be made there: the runtimes bind what the host has at the very path.
  for (const [path, { hostPath }] of byPath)
    if (pod.namespaces.user && path !== hostPath)
      throw new TinderboxError(
        "INVALID",
        `devices.container_path ${path}: in a pod with a user namespace it must be the host_path, ${hostPath}`,
      );
  return [...byPath.values()];
}

function withHostDevices(asked: readonly AllowedDevice[], config: ContainerConfig, facts: PlaceFacts) {
  const devices = asked.map(({ device }) => device);
  if (facts.place === "microvm" || !config.security.privileged) return devices;
  const taken = new Set(devices.map(({ path }) => path));
  return [...devices, ...allHostDevices().filter(({ path }) => !taken.has(path))];
}

function deviceRules(config: ContainerConfig, devices: readonly AllowedDevice[]): readonly object[] {
  if (config.security.privileged) return [{ allow: true, access: "rwm" }];
  return [
    { allow: false, access: "rwm" },
    // null, zero, full, random, urandom, tty, console, ptmx, pts: what the OCI specification makes in every container
    ...[3, 5, 7, 8, 9].map((minor) => ({ allow: true, type: "c", major: 1, minor, access: "rwm" })),
    ...[0, 1, 2].map((minor) => ({ allow: true, type: "c", major: 5, minor, access: "rwm" })),
    { allow: true, type: "c", major: 136, access: "rwm" },
    ...devices
      .filter(({ device }) => device.type !== "p")
      .map(({ device: { type, major, minor }, access }) => ({ allow: true, type, major, minor, access })),
  ];
}

function seccompOf(config: ContainerConfig, facts: PlaceFacts, capabilities: readonly string[]): object {
  const { privileged, seccomp } = config.security;
  if (privileged || seccomp.kind === "unconfined") return {};
  return { seccomp: seccomp.kind === "file" ? facts.seccompFile : defaultSeccomp(capabilities) };
}

/** The pod's maps, as the runtimes want them beside the path of the namespace. */
function idMaps(pod: PodConfig): object {
  const maps = pod.namespaces.user;
  if (!maps) return {};
  const lines = (list: IdMaps["uids"]): object[] =>
    list.map(({ inside, outside, length }) => ({ containerID: inside, hostID: outside, size: length }));
  return { uidMappings: lines(maps.uids), gidMappings: lines(maps.gids) };
}

function checkMapped(pod: PodConfig, user: Container["user"]): void {
  const maps = pod.namespaces.user;
  if (!maps) return;
  const check = (what: string, id: number, map: IdMaps["uids"]): void => {
    if (!map.some(({ inside, length }) => id >= inside && id < inside + length))
      throw new TinderboxError("INVALID", `${what} ${id}: not an id of the pod's user namespace`);
  };
  check("user", user.uid, maps.uids);
  for (const gid of [user.gid, ...user.supplementalGroups]) check("group", gid, maps.gids);
}

function withGroups(user: Container["user"], more: readonly number[]): Container["user"] {
  return { ...user, supplementalGroups: [...new Set([...user.supplementalGroups, ...more])] };
}

/** Names of the files that go along, and where they appear. */
export const sentFiles = {
  "resolv.conf": "/etc/resolv.conf",
  hostname: "/etc/hostname",
  hosts: "/etc/hosts",
};

/** Builds the spec. @throws INVALID, UNSUPPORTED naming the field that cannot be had */
export function buildOciSpec(
  id: string,
  pod: PodConfig,
  config: ContainerConfig,
  image: Image,
  facts: PlaceFacts,
): BuiltSpec {
  if (facts.place === "microvm") refuseForMicrovm(pod, config);
  const { security } = config;
  const user = withGroups(resolveContainerUser(image, security), facts.edits.additionalGids);
  checkMapped(pod, user);
  const asked = askedDevices(pod, config, facts, user);
  const standardMounts = ociMounts({
    privileged: security.privileged,
    shmPath: facts.shmPath,
    hasCgroupV2: facts.hasCgroupV2,
    inGuest: facts.place === "microvm",
    files: sentFiles,
    requested: config.mounts,
  });
  const mounts = withCdiMounts(standardMounts, facts.edits);
  const propagations = new Set(config.mounts.map((mount) => mount.propagation));
  const propagation = propagations.has("rshared")
    ? "rshared"
    : propagations.has("rslave")
      ? "rslave"
      : "rprivate";
  const capabilities = capabilitySet(security, facts.capabilities);
  const profile = appArmorProfile(security.appArmor, security.privileged, facts.appArmor);
  const process: OciProcess = {
    terminal: config.tty,
    user: { uid: user.uid, gid: user.gid, additionalGids: user.supplementalGroups },
    args: processArgs(config, image),
    env: processEnv(config, image, facts),
    cwd: config.workingDir || image.config.workingDir || "/",
    capabilities,
    ...(profile === undefined ? {} : { apparmorProfile: profile }),
    noNewPrivileges: security.noNewPrivs,
    oomScoreAdj: Math.max(config.resources.oomScoreAdj, facts.lowestOomScoreAdj),
  };
  const cgroupsPath = facts.place === "host" ? `/${facts.podCgroupPath}/${id}` : `/${id}`;
  const spec = {
    ociVersion: "1.0.2",
    process,
    root: { path: "rootfs", readonly: security.readonlyRootfs },
    mounts,
    ...cdiHooks(facts.edits),
    linux: {
      namespaces: namespaces(pod, config, facts),
      cgroupsPath,
      resources: {
        ...ociResources(config.resources, facts.hasCgroupV2),
        devices: deviceRules(config, asked),
      },
      ...idMaps(pod),
      devices: withHostDevices(asked, config, facts),
      rootfsPropagation: propagation,
      maskedPaths: security.privileged ? [] : security.maskedPaths,
      readonlyPaths: security.privileged ? [] : security.readonlyPaths,
      ...seccompOf(config, facts, capabilities.bounding),
    },
  };
  return { spec, user };
}
