/** Runs CNI plugins as the specification's runtime side: ADD and CHECK in order with prevResult, DEL in reverse. */
import { TinderboxError } from "../base/errors.ts";
import { tryRun } from "../native/run.ts";
import { type CniNetwork, type CniPlugin, findPlugin, isObject, type JsonObject } from "./cni-config.ts";
import type { PodNetworkRequest, PortMapping } from "./contract.ts";

/** The one interface a pod gets; CRI has no way to ask for more. */
export const podInterfaceName = "eth0";

const pluginTimeoutMs = 60_000;

/** One container's attachment to one network. */
export type CniAttachment = {
  readonly network: CniNetwork;
  readonly binDirs: readonly string[];
  /** "" when the namespace is gone (DEL only) */
  readonly netnsPath: string;
  readonly request: PodNetworkRequest;
};

/** CNI_ARGS of a pod. @throws INVALID for names that cannot be in there */
export function cniArgs(request: PodNetworkRequest): string {
  const pairs = {
    IgnoreUnknown: "1",
    K8S_POD_NAMESPACE: request.podNamespace,
    K8S_POD_NAME: request.podName,
    K8S_POD_INFRA_CONTAINER_ID: request.sandboxId,
    K8S_POD_UID: request.podUid,
  };
  for (const [key, value] of Object.entries(pairs)) {
    if (/[;=\x00-\x1f]/.test(value))
      throw new TinderboxError(
        "INVALID",
        `${key} ${JSON.stringify(value)}: ";", "=" and control characters cannot be told to CNI`,
      );
  }
  return Object.entries(pairs)
    .map(([key, value]) => `${key}=${value}`)
    .join(";");
}

function portMappingsForCni(mappings: readonly PortMapping[]): readonly JsonObject[] {
  return mappings
    .filter((one) => one.hostPort > 0)
    .map((one) => ({
      hostPort: one.hostPort,
      containerPort: one.containerPort,
      protocol: one.protocol,
      ...(one.hostIp === "" ? {} : { hostIP: one.hostIp }),
    }));
}

function pluginInput(
  attachment: CniAttachment,
  plugin: CniPlugin,
  prevResult: JsonObject | undefined,
): string {
  const { network, request } = attachment;
  const { capabilities: _, ...raw } = plugin.raw;
  const ports = portMappingsForCni(request.portMappings);
  const wantsPorts = plugin.capabilities["portMappings"] === true && ports.length > 0;
  return JSON.stringify({
    ...raw,
    name: network.name,
    cniVersion: network.cniVersion,
    ...(wantsPorts ? { runtimeConfig: { portMappings: ports } } : {}),
    ...(prevResult ? { prevResult } : {}),
  });
}

async function runPlugin(
  command: "ADD" | "CHECK" | "DEL",
  attachment: CniAttachment,
  plugin: CniPlugin,
  prevResult: JsonObject | undefined,
  signal: AbortSignal | undefined,
): Promise<unknown> {
  const { request, binDirs, netnsPath } = attachment;
  const file = await findPlugin(binDirs, plugin.type);
  const result = await tryRun(file, [], {
    input: pluginInput(attachment, plugin, prevResult),
    timeoutMs: pluginTimeoutMs,
    ...(signal ? { signal } : {}),
    env: {
      PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin",
      CNI_COMMAND: command,
      CNI_CONTAINERID: request.sandboxId,
      CNI_NETNS: netnsPath,
      CNI_IFNAME: podInterfaceName,
      CNI_ARGS: cniArgs(request),
      CNI_PATH: binDirs.join(":"),
    },
  });
  let said: unknown;
  try {
    said = result.stdout.trim() === "" ? undefined : JSON.parse(result.stdout);
  } catch (cause) {
    if (result.code === 0)
      throw new TinderboxError("CNI", `CNI ${command} by ${plugin.type}: its answer is not JSON`, { cause });
  }
  if (result.code !== 0) {
    const message = isObject(said)
      ? [said["msg"], said["details"]].filter((part) => typeof part === "string" && part !== "").join(": ")
      : result.stderr.trim();
    throw new TinderboxError(
      "CNI",
      `CNI ${command} by ${plugin.type}: ${message || `exit status ${result.code}`}`,
    );
  }
  return said;
}

/** Attaches; the last plugin's result. What a failed one had made is left for `cniDelete`. */
export async function cniAdd(attachment: CniAttachment, signal: AbortSignal): Promise<JsonObject> {
  let result: JsonObject | undefined;
  for (const plugin of attachment.network.plugins) {
    const said = await runPlugin("ADD", attachment, plugin, result, signal);
    if (!isObject(said)) throw new TinderboxError("CNI", `CNI ADD by ${plugin.type}: no result`);
    result = said;
  }
  return result ?? {};
}

/** Whether plugins of this network can be asked to check it: CHECK came with 0.4.0, and a list may forbid it. */
export function canCheck(network: CniNetwork): boolean {
  return network.cniVersion !== "0.3.1" && !network.disableCheck;
}

/** Asks each plugin whether what it made is still there. @throws CNI by the first that misses something */
export async function cniCheck(attachment: CniAttachment, result: JsonObject): Promise<void> {
  for (const plugin of attachment.network.plugins)
    await runPlugin("CHECK", attachment, plugin, result, undefined);
}

/** Detaches; also an attachment whose ADD was cut short (`result` undefined), and again. */
export async function cniDelete(attachment: CniAttachment, result: JsonObject | undefined): Promise<void> {
  for (const plugin of attachment.network.plugins.toReversed())
    await runPlugin("DEL", attachment, plugin, result, undefined);
}
