/** CRI's PodSandboxConfig as the engine's PodConfig. What is not obeyed is refused by name. */
import { hostname } from "node:os";
import type { PodConfig } from "../engine/contract.ts";
import type { PortMapping } from "../network/contract.ts";
import {
  type DNSConfig,
  type LinuxSandboxSecurityContext,
  type PodSandboxConfig,
  Protocol,
  type PortMapping as WirePortMapping,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import {
  absolutePath,
  choice,
  integer,
  invalid,
  nameText,
  optionalIp,
  plainText,
  refuse,
  required,
} from "./field-checks.ts";
import { type ParsedNamespaces, parseNamespaces } from "./namespace-modes.ts";
import { groupPolicies, maxUserId } from "./parse-container-security.ts";
import { parsePodResources } from "./parse-resources.ts";
import { checkSelinux, parseAppArmor, parseSeccomp } from "./security-profiles.ts";

const protocols = { [Protocol.TCP]: "tcp", [Protocol.UDP]: "udp", [Protocol.SCTP]: "sctp" } as const;
/** Kernel limit of a UTS node name */
const maxHostname = 64;
const maxDnsEntries = 64;

function parseDns(path: string, dns: DNSConfig | undefined): PodConfig["dns"] {
  if (dns === undefined) return undefined;
  const entries = (name: string, values: readonly string[]): readonly string[] => {
    if (values.length > maxDnsEntries)
      throw invalid(`${path}.${name}`, values.length, `at most ${maxDnsEntries} entries`);
    return values.map((value, n) => {
      // An entry with a space or line end would be more than one entry of resolv.conf.
      if (!/^[\w.:%-]{1,255}$/.test(value))
        throw invalid(`${path}.${name}[${n}]`, value, "one entry of resolv.conf, no spaces");
      return value;
    });
  };
  return {
    servers: entries("servers", dns.servers).map((server, n) => optionalIp(`${path}.servers[${n}]`, server)),
    searches: entries("searches", dns.searches),
    options: entries("options", dns.options),
  };
}

function parsePort(path: string, port: WirePortMapping): PortMapping {
  return {
    protocol: choice(`${path}.protocol`, port.protocol, protocols),
    containerPort: integer(`${path}.container_port`, port.containerPort, 1, 65535),
    hostPort: integer(`${path}.host_port`, port.hostPort, 0, 65535),
    hostIp: optionalIp(`${path}.host_ip`, port.hostIp),
  };
}

const ipcSysctl = /^(kernel\.(shm\w*|msg\w*|sem)|fs\.mqueue\.\w+)$/;
const netSysctl = /^net(\.[a-z0-9_-]+)+$/;

function checkSysctls(
  path: string,
  sysctls: Readonly<Record<string, string>>,
  namespaces: ParsedNamespaces,
): void {
  for (const [key, value] of Object.entries(sysctls)) {
    const at = `${path}[${key}]`;
    const kind = netSysctl.test(key) ? "network" : ipcSysctl.test(key) ? "ipc" : undefined;
    if (kind === undefined)
      throw invalid(
        at,
        key,
        "net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*, which belong to a namespace",
      );
    plainText(at, value, 1, 1024);
    if (namespaces[kind] === "node")
      throw invalid(at, value, `a pod with its own ${kind} namespace; this one uses the node's`);
  }
}

function parseCgroupParent(path: string, value: string): string {
  if (value === "") return "";
  plainText(path, value, 1, 1024);
  if (value.split("/").includes("..")) throw invalid(path, value, "a cgroupfs path without `..`");
  if (!value.includes("/") && value.endsWith(".slice")) {
    throw invalid(
      path,
      value,
      "a cgroupfs path like /kubepods/pod1",
      "set the kubelet's cgroupDriver to cgroupfs",
    );
  }
  return value;
}

/** No process runs for the pod itself, so nothing comes of them; what is wrong is told all the same. */
function checkUsers(path: string, security: LinuxSandboxSecurityContext | undefined): void {
  for (const [name, value] of [
    ["run_as_user", security?.runAsUser?.value],
    ["run_as_group", security?.runAsGroup?.value],
  ] as const)
    if (value !== undefined) integer(`${path}.${name}`, value, 0, maxUserId);
  for (const [n, id] of (security?.supplementalGroups ?? []).entries())
    integer(`${path}.supplemental_groups[${n}]`, id, 0, maxUserId);
  choice(`${path}.supplemental_groups_policy`, security?.supplementalGroupsPolicy ?? 0, groupPolicies);
}

/** In the node's network a container's port is the node's port, and the name is the node's. */
function checkNodeNetwork(config: PodSandboxConfig): void {
  for (const [n, { hostPort, containerPort }] of config.portMappings.entries()) {
    if (hostPort !== 0 && hostPort !== containerPort)
      throw invalid(
        `config.port_mappings[${n}].host_port`,
        hostPort,
        `0 or the container_port ${containerPort} in a pod in the node's network`,
      );
  }
  if (config.hostname !== "" && config.hostname !== hostname())
    throw invalid("config.hostname", config.hostname, "empty or the node's in a pod in the node's network");
}

/** Parses and checks `config`; errors name fields from `config` on. */
export function parsePodConfig(config: PodSandboxConfig | undefined): PodConfig {
  const given = required("config", config);
  const metadata = required("config.metadata", given.metadata);
  refuse(given.windows !== undefined, "config.windows", "set", "this is a Linux node");
  const linux = given.linux;
  const security = linux?.securityContext;
  const at = "config.linux.security_context";
  const namespaces = parseNamespaces(`${at}.namespace_options`, security?.namespaceOptions);
  if (namespaces.pid === "target")
    throw invalid(`${at}.namespace_options.pid`, 3, "POD, CONTAINER or NODE for a pod");
  checkSelinux(`${at}.selinux_options`, security?.selinuxOptions);
  // No process of an image runs for the pod itself, so there is nothing to confine; what is wrong is told all the same.
  parseSeccomp(`${at}.seccomp`, security?.seccomp, security?.seccompProfilePath ?? "");
  parseAppArmor(`${at}.apparmor`, security?.apparmor, "");
  checkUsers(at, security);
  if (security?.runAsGroup !== undefined && security.runAsUser === undefined) {
    throw invalid(`${at}.run_as_group`, security.runAsGroup.value, "only together with run_as_user");
  }
  for (const kind of ["network", "pid", "ipc"] as const) {
    if (namespaces.user && namespaces[kind] === "node")
      throw invalid(
        `${at}.namespace_options.${kind}`,
        2,
        "not NODE in a pod with a user namespace of its own",
      );
  }
  if (namespaces.network === "node") checkNodeNetwork(given);
  const sysctls = linux?.sysctls ?? {};
  checkSysctls("config.linux.sysctls", sysctls, namespaces);
  if (!/^[A-Za-z0-9_.-]*$/.test(given.hostname) || given.hostname.length > maxHostname) {
    throw invalid(
      "config.hostname",
      given.hostname,
      `letters, digits, dots and hyphens, at most ${maxHostname}`,
    );
  }
  return {
    name: nameText("config.metadata.name", metadata.name),
    uid: nameText("config.metadata.uid", metadata.uid),
    namespace: nameText("config.metadata.namespace", metadata.namespace),
    attempt: metadata.attempt,
    hostname: given.hostname,
    logDirectory: given.logDirectory === "" ? "" : absolutePath("config.log_directory", given.logDirectory),
    dns: parseDns("config.dns_config", given.dnsConfig),
    // host_port 0 means that none is wanted
    portMappings: given.portMappings
      .map((port, n) => parsePort(`config.port_mappings[${n}]`, port))
      .filter((port) => port.hostPort !== 0),
    labels: given.labels,
    annotations: given.annotations,
    cgroupParent: parseCgroupParent("config.linux.cgroup_parent", linux?.cgroupParent ?? ""),
    sysctls,
    resources: parsePodResources("config.linux.resources", linux?.resources),
    overhead: parsePodResources("config.linux.overhead", linux?.overhead),
    namespaces: {
      network: namespaces.network,
      pid: namespaces.pid,
      ipc: namespaces.ipc,
      ...(namespaces.user ? { user: namespaces.user } : {}),
    },
    privileged: security?.privileged ?? false,
    readonlyRootfs: security?.readonlyRootfs ?? false,
  };
}
