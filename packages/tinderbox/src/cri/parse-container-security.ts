/** CRI's LinuxContainerSecurityContext as the engine's ContainerSecurity. */
import { isDeepStrictEqual } from "node:util";
import type { ContainerSecurity, PodConfig } from "../engine/contract.ts";
import {
  type LinuxContainerSecurityContext,
  SupplementalGroupsPolicy,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { absolutePath, choice, integer, invalid, plainText } from "./field-checks.ts";
import { parseNamespaces } from "./namespace-modes.ts";
import { checkSelinux, parseAppArmor, parseSeccomp } from "./security-profiles.ts";

/** A uid above this turns negative, and then to root, in some runtimes. */
export const maxUserId: number = 0x7fff_ffff;
/** What may be in supplemental_groups_policy. */
export const groupPolicies = {
  [SupplementalGroupsPolicy.Merge]: "merge",
  [SupplementalGroupsPolicy.Strict]: "strict",
} as const;

function capabilities(path: string, names: readonly string[]): readonly string[] {
  return names.map((name, n) => {
    if (!/^(CAP_)?[A-Za-z_]{1,40}$/i.test(name))
      throw invalid(`${path}[${n}]`, name, "a capability name like NET_ADMIN, or ALL");
    return name.toUpperCase().replace(/^CAP_/, "");
  });
}

/** Parses and checks; network and user namespace are the pod's, which no container can leave. */
export function parseContainerSecurity(
  path: string,
  context: LinuxContainerSecurityContext | undefined,
  pod: PodConfig["namespaces"],
): ContainerSecurity {
  const namespaces = parseNamespaces(`${path}.namespace_options`, context?.namespaceOptions);
  if (namespaces.network === "node" && pod.network === "pod") {
    throw invalid(
      `${path}.namespace_options.network`,
      2,
      "POD, because the pod has its own network namespace",
    );
  }
  if (context?.namespaceOptions?.usernsOptions && !isDeepStrictEqual(namespaces.user, pod.user))
    throw invalid(`${path}.namespace_options.userns_options`, namespaces.user, "what the pod was made with");
  if (namespaces.pid === "target" && namespaces.targetId === "") {
    throw invalid(
      `${path}.namespace_options.target_id`,
      "",
      "the id of a container of this pod when pid is TARGET",
    );
  }
  checkSelinux(`${path}.selinux_options`, context?.selinuxOptions);
  const user = context?.runAsUser?.value;
  const group = context?.runAsGroup?.value;
  const username = plainText(`${path}.run_as_username`, context?.runAsUsername ?? "", 0, 256);
  if (user !== undefined && username !== "")
    throw invalid(`${path}.run_as_username`, username, "empty when run_as_user is set");
  if (group !== undefined && user === undefined && username === "") {
    throw invalid(`${path}.run_as_group`, group, "only together with run_as_user or run_as_username");
  }
  return {
    privileged: context?.privileged ?? false,
    addCapabilities: capabilities(
      `${path}.capabilities.add_capabilities`,
      context?.capabilities?.addCapabilities ?? [],
    ),
    dropCapabilities: capabilities(
      `${path}.capabilities.drop_capabilities`,
      context?.capabilities?.dropCapabilities ?? [],
    ),
    addAmbientCapabilities: capabilities(
      `${path}.capabilities.add_ambient_capabilities`,
      context?.capabilities?.addAmbientCapabilities ?? [],
    ),
    pid: { mode: namespaces.pid, targetId: namespaces.targetId },
    ipc: namespaces.ipc,
    runAsUser: user === undefined ? undefined : integer(`${path}.run_as_user`, user, 0, maxUserId),
    runAsUsername: username,
    runAsGroup: group === undefined ? undefined : integer(`${path}.run_as_group`, group, 0, maxUserId),
    supplementalGroups: (context?.supplementalGroups ?? []).map((id, n) =>
      integer(`${path}.supplemental_groups[${n}]`, id, 0, maxUserId),
    ),
    supplementalGroupsPolicy: choice(
      `${path}.supplemental_groups_policy`,
      context?.supplementalGroupsPolicy ?? 0,
      groupPolicies,
    ),
    readonlyRootfs: context?.readonlyRootfs ?? false,
    noNewPrivs: context?.noNewPrivs ?? false,
    seccomp: parseSeccomp(`${path}.seccomp`, context?.seccomp, context?.seccompProfilePath ?? ""),
    appArmor: parseAppArmor(`${path}.apparmor`, context?.apparmor, context?.apparmorProfile ?? ""),
    maskedPaths: (context?.maskedPaths ?? []).map((one, n) =>
      absolutePath(`${path}.masked_paths[${n}]`, one),
    ),
    readonlyPaths: (context?.readonlyPaths ?? []).map((one, n) =>
      absolutePath(`${path}.readonly_paths[${n}]`, one),
    ),
  };
}
