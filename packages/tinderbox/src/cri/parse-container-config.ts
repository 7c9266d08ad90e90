/** CRI's ContainerConfig as the engine's. What is not obeyed is refused by name. */
import type { ContainerConfig, Device, Mount, PodConfig } from "../engine/contract.ts";
import {
  MountPropagation,
  type ContainerConfig as WireConfig,
  type Device as WireDevice,
  type Mount as WireMount,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import {
  absolutePath,
  choice,
  invalid,
  nameText,
  noNul,
  plainText,
  refuse,
  required,
} from "./field-checks.ts";
import { parseMappings } from "./namespace-modes.ts";
import { parseCdiDevices } from "./parse-cdi-devices.ts";
import { parseContainerSecurity } from "./parse-container-security.ts";
import { parseImageSpec } from "./parse-image-spec.ts";
import { parseResources } from "./parse-resources.ts";
import { checkRelabel } from "./security-profiles.ts";
import { signalName } from "./stop-signals.ts";

const propagations = {
  [MountPropagation.PROPAGATION_PRIVATE]: "private",
  [MountPropagation.PROPAGATION_HOST_TO_CONTAINER]: "rslave",
  [MountPropagation.PROPAGATION_BIDIRECTIONAL]: "rshared",
} as const;

function parseSource(path: string, mount: WireMount, handlers: readonly string[]): Mount["source"] {
  if (mount.image === undefined) {
    if (mount.imageSubPath !== "")
      throw invalid(`${path}.image_sub_path`, mount.imageSubPath, "only together with image");
    return { kind: "path", path: absolutePath(`${path}.host_path`, mount.hostPath) };
  }
  if (mount.hostPath !== "") throw invalid(`${path}.host_path`, mount.hostPath, "empty when image is set");
  if (!mount.readonly) throw invalid(`${path}.readonly`, false, "true for a volume that is an image");
  const { imageSubPath } = mount;
  plainText(`${path}.image_sub_path`, imageSubPath, 0, 4096);
  if (imageSubPath.startsWith("/") || imageSubPath.split("/").includes(".."))
    throw invalid(
      `${path}.image_sub_path`,
      imageSubPath,
      "a path relative to the image's root, without `..`",
    );
  const { name, notes } = parseImageSpec(`${path}.image`, mount.image, handlers);
  return { kind: "image", image: name, subPath: imageSubPath, notes };
}

function parseMount(path: string, mount: WireMount, handlers: readonly string[]): Mount {
  checkRelabel(`${path}.selinux_relabel`, mount.selinuxRelabel);
  const propagation = choice(`${path}.propagation`, mount.propagation, propagations);
  const { readonly, recursiveReadOnly } = mount;
  if (recursiveReadOnly && (!readonly || propagation !== "private"))
    throw invalid(`${path}.recursive_read_only`, true, "only with readonly and PROPAGATION_PRIVATE");
  const uidMappings = parseMappings(`${path}.uidMappings`, mount.uidMappings);
  const gidMappings = parseMappings(`${path}.gidMappings`, mount.gidMappings);
  if (uidMappings.length > 0 !== gidMappings.length > 0)
    throw invalid(`${path}.gidMappings`, gidMappings.length, "both uidMappings and gidMappings, or none");
  if (uidMappings.length > 0 && propagation !== "private")
    throw invalid(`${path}.propagation`, mount.propagation, "PROPAGATION_PRIVATE for an id-mapped mount");
  return {
    containerPath: absolutePath(`${path}.container_path`, mount.containerPath),
    source: parseSource(path, mount, handlers),
    readonly,
    recursiveReadOnly,
    uidMappings,
    gidMappings,
    propagation,
  };
}

function parseDevice(path: string, device: WireDevice): Device {
  if (!/^[rwm]{1,3}$/.test(device.permissions))
    throw invalid(`${path}.permissions`, device.permissions, "some of r, w and m");
  return {
    containerPath: absolutePath(`${path}.container_path`, device.containerPath),
    hostPath: absolutePath(`${path}.host_path`, device.hostPath),
    permissions: device.permissions,
  };
}

function parseDevices(path: string, wire: readonly WireDevice[]): readonly Device[] {
  const devices = wire.map((device, n) => parseDevice(`${path}[${n}]`, device));
  for (const [n, { containerPath }] of devices.entries()) {
    const first = devices.findIndex((other) => other.containerPath === containerPath);
    if (first < n)
      throw invalid(
        `${path}[${n}].container_path`,
        containerPath,
        `a path that is not ${path}[${first}]'s as well`,
      );
  }
  return devices;
}

function parseLogPath(path: string, value: string): string {
  plainText(path, value, 0, 4096);
  if (value.startsWith("/") || value.split("/").includes("..")) {
    throw invalid(path, value, "a path relative to the pod's log_directory, without `..`");
  }
  return value;
}

/** Parses and checks `config` for a container of `pod`; errors name fields from `config` on. `handlers` are those of this node. */
export function parseContainerConfig(
  config: WireConfig | undefined,
  pod: PodConfig,
  handlers: readonly string[],
): ContainerConfig {
  const given = required("config", config);
  const metadata = required("config.metadata", given.metadata);
  const image = required("config.image", given.image);
  refuse(given.windows !== undefined, "config.windows", "set", "this is a Linux node");
  const security = parseContainerSecurity(
    "config.linux.security_context",
    given.linux?.securityContext,
    pod.namespaces,
  );
  if (security.privileged && !pod.privileged) {
    throw invalid(
      "config.linux.security_context.privileged",
      true,
      "only in a pod whose security_context is privileged as well",
    );
  }
  const { name, notes } = parseImageSpec("config.image", image, handlers);
  return {
    name: nameText("config.metadata.name", metadata.name),
    attempt: metadata.attempt,
    image: name,
    userImage: notes.userImage || name,
    imageNotes: notes,
    command: given.command.map((word, n) => noNul(`config.command[${n}]`, word)),
    args: given.args.map((word, n) => noNul(`config.args[${n}]`, word)),
    workingDir: given.workingDir === "" ? "" : absolutePath("config.working_dir", given.workingDir),
    env: given.envs.map(({ key, value }, n) => {
      if (key === "" || key.includes("="))
        throw invalid(`config.envs[${n}].key`, key, "a name without `=`, not empty");
      return { key: noNul(`config.envs[${n}].key`, key), value: noNul(`config.envs[${n}].value`, value) };
    }),
    mounts: given.mounts.map((mount, n) => parseMount(`config.mounts[${n}]`, mount, handlers)),
    devices: parseDevices("config.devices", given.devices),
    cdiDevices: parseCdiDevices(given),
    labels: given.labels,
    annotations: given.annotations,
    logPath: parseLogPath("config.log_path", given.logPath),
    stdin: given.stdin,
    stdinOnce: given.stdinOnce,
    tty: given.tty,
    stopSignal: signalName("config.stop_signal", given.stopSignal),
    resources: parseResources("config.linux.resources", given.linux?.resources),
    security,
  };
}
