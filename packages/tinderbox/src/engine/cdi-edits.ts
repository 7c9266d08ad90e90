/** What CDI devices change in a container's OCI configuration; on the host all of it, in a microVM variables and block devices. */
import { existsSync, statSync } from "node:fs";
import { deviceNumber } from "../base/device-number.ts";
import { TinderboxError } from "../base/errors.ts";
import type { CdiDeviceNode, ContainerEdits } from "../cdi/contract.ts";
import type { ContainerBlockDevice } from "../sandbox/contract.ts";
import type { Container } from "./contract.ts";
import type { AllowedDevice } from "./host-devices.ts";
import type { OciMount } from "./oci-mounts.ts";

const maxToldNames = 5;

function nameOf({ names }: ContainerEdits): string {
  const more = names.length > maxToldNames ? " and others" : "";
  return `CDI device ${names.slice(0, maxToldNames).join(", ")}${more}`;
}

function typeOf(stat: { isBlockDevice(): boolean; isCharacterDevice(): boolean; isFIFO(): boolean }) {
  return stat.isBlockDevice() ? "b" : stat.isCharacterDevice() ? "c" : stat.isFIFO() ? "p" : undefined;
}

function deviceOf(
  node: CdiDeviceNode,
  user: Container["user"],
  refuse: (why: string) => TinderboxError,
): AllowedDevice {
  const stat = statSync(node.hostPath, { bigint: true, throwIfNoEntry: false });
  const there = stat && typeOf(stat);
  const type = node.type ?? there;
  if (type === undefined) throw refuse(`${node.hostPath} is not a device on this host`);
  const isNumbered = node.major !== undefined && node.minor !== undefined;
  if (type !== "p" && !isNumbered && there !== type)
    throw refuse(`${node.hostPath} is not a device of type ${type} on this host`);
  const number = isNumbered || !stat ? { major: 0, minor: 0 } : deviceNumber(stat.rdev);
  const { major = number.major, minor = number.minor } = node;
  // The device is for the container's user, the specification's own library has it.
  const owner = (own: number, hosts: bigint | undefined): number => (own > 0 ? own : Number(hosts ?? 0n));
  return {
    access: node.permissions,
    hostPath: node.hostPath,
    device: {
      path: node.path,
      type,
      ...(type === "p" ? {} : { major, minor }),
      fileMode: node.fileMode ?? Number((stat?.mode ?? 0o666n) & 0o777n),
      uid: node.uid ?? owner(user.uid, stat?.uid),
      gid: node.gid ?? owner(user.gid, stat?.gid),
    },
  };
}

/** The devices of the host that the edits name. @throws INVALID when there is none */
export function cdiDevices(edits: ContainerEdits, user: Container["user"]): readonly AllowedDevice[] {
  return edits.deviceNodes.map((node) =>
    deviceOf(
      node,
      user,
      (why) => new TinderboxError("INVALID", `${nameOf(edits)}: deviceNodes ${node.path}: ${why}`),
    ),
  );
}

const depth = (path: string): number => path.split("/").filter((part) => part !== "").length;

/** The mounts with the edits' in place of those at the same path, in the order in which none hides another. @throws INVALID for a source that is not there */
export function withCdiMounts(mounts: readonly OciMount[], edits: ContainerEdits): readonly OciMount[] {
  if (edits.mounts.length === 0) return mounts;
  const added = edits.mounts.map(({ hostPath, containerPath, type, options }): OciMount => {
    const isBind = type === "" || type === "none" || type === "bind";
    if (isBind && !(hostPath.startsWith("/") && existsSync(hostPath)))
      throw new TinderboxError(
        "INVALID",
        `${nameOf(edits)}: mounts ${containerPath}: ${hostPath} is not there on this host`,
      );
    const saysBind = options.some((option) => option === "bind" || option === "rbind");
    return {
      destination: containerPath,
      type: isBind ? "bind" : type,
      source: hostPath,
      options: isBind && !saysBind ? ["rbind", ...options] : options,
    };
  });
  const destinations = new Set(added.map(({ destination }) => destination));
  return [...mounts.filter(({ destination }) => !destinations.has(destination)), ...added].sort(
    (a, b) => depth(a.destination) - depth(b.destination),
  );
}

/** `hooks` of the OCI configuration, if there are any. */
export function cdiHooks({ hooks }: ContainerEdits): object {
  if (hooks.length === 0) return {};
  const byName = Object.groupBy(hooks, ({ hookName }) => hookName);
  return {
    hooks: Object.fromEntries(
      Object.entries(byName).map(([name, list]) => [
        name,
        list.map(({ path, args, env, timeout }) => ({
          path,
          args,
          env,
          ...(timeout === undefined ? {} : { timeout }),
        })),
      ]),
    ),
  };
}

/** The edits' device nodes as a microVM can have them. @throws UNSUPPORTED naming the edits that it cannot have */
export function guestCdiDevices(edits: ContainerEdits): readonly ContainerBlockDevice[] {
  for (const kind of ["mounts", "hooks", "additionalGids"] as const)
    if (edits[kind].length > 0)
      throw new TinderboxError(
        "UNSUPPORTED",
        `${nameOf(edits)}: ${kind}: not possible in a microVM, whose devices and drivers are its own; env and block deviceNodes are`,
        { hint: "Use an OCI runtime handler for this pod." },
      );
  return edits.deviceNodes.map(({ path, hostPath, permissions, fileMode, uid, gid }) => ({
    field: `${nameOf(edits)}: deviceNodes ${path}`,
    hostPath,
    containerPath: path,
    access: permissions,
    ...(fileMode === undefined ? {} : { mode: fileMode & 0o777 }),
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid }),
  }));
}
