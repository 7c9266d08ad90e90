/** CNI's runtime side: ADD and CHECK in order with prevResult, DEL in reverse, STATUS and GC of a whole network. */
import { TinderboxError } from "../base/errors.ts";
import { capabilityArgs } from "./capability-args.ts";
import { type CniNetwork, type CniPlugin, isObject, type JsonObject } from "./cni-config.ts";
import { type CniCommand, runPlugin } from "./cni-plugin.ts";
import type { PodNetworkRequest } from "./contract.ts";

/** The one interface a pod gets; CRI has no way to ask for more. */
export const podInterfaceName = "eth0";

const pluginTimeoutMs = 60_000;
/** A kubelet asks every few seconds, and takes a node without an answer for a dead one. */
const statusTimeoutMs = 5_000;

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

/** A plugin's configuration as the specification wants it on standard input; our own keys are never the file's. */
function inputOf(network: CniNetwork, plugin: CniPlugin, more: JsonObject): JsonObject {
  const own = Object.entries(plugin.raw).filter(
    ([key]) => key !== "capabilities" && !key.startsWith("cni.dev/"),
  );
  return { ...Object.fromEntries(own), name: network.name, cniVersion: network.cniVersion, ...more };
}

/** What of the pod the plugin has said it takes. */
function runtimeConfigOf(plugin: CniPlugin, request: PodNetworkRequest): JsonObject {
  const taken = Object.entries(capabilityArgs(request)).filter(([key]) => plugin.capabilities[key] === true);
  return taken.length > 0 ? { runtimeConfig: Object.fromEntries(taken) } : {};
}

function runForPod(
  command: CniCommand,
  attachment: CniAttachment,
  plugin: CniPlugin,
  prevResult: JsonObject | undefined,
  signal?: AbortSignal,
): Promise<unknown> {
  const { network, request, binDirs, netnsPath } = attachment;
  return runPlugin({
    command,
    type: plugin.type,
    binDirs,
    input: inputOf(network, plugin, {
      ...runtimeConfigOf(plugin, request),
      ...(prevResult ? { prevResult } : {}),
    }),
    env: {
      CNI_CONTAINERID: request.sandboxId,
      CNI_NETNS: netnsPath,
      CNI_IFNAME: podInterfaceName,
      CNI_ARGS: cniArgs(request),
    },
    timeoutMs: pluginTimeoutMs,
    ...(signal ? { signal } : {}),
  });
}

/** Attaches; the last plugin's result. What a failed one had made is left for `cniDelete`. */
export async function cniAdd(attachment: CniAttachment, signal: AbortSignal): Promise<JsonObject> {
  let result: JsonObject | undefined;
  for (const plugin of attachment.network.plugins) {
    const said = await runForPod("ADD", attachment, plugin, result, signal);
    if (!isObject(said)) throw new TinderboxError("CNI", `CNI ADD by ${plugin.type}: no result`);
    result = said;
  }
  return result ?? {};
}

/**
 * Asks each plugin whether what it made is still there. The first one of a chain looks at the addresses of the interface,
 * which a microVM's guest has: it is not asked then. @throws CNI by the first that misses something
 */
export async function cniCheck(attachment: CniAttachment, result: JsonObject): Promise<void> {
  const { network, request } = attachment;
  for (const plugin of network.plugins.slice(request.withTap ? 1 : 0))
    await runForPod("CHECK", attachment, plugin, result);
}

/** Detaches; also an attachment whose ADD was cut short (`result` undefined), and again. */
export async function cniDelete(attachment: CniAttachment, result: JsonObject | undefined): Promise<void> {
  for (const plugin of attachment.network.plugins.toReversed())
    await runForPod("DEL", attachment, plugin, result);
}

/** Asks each plugin whether it could attach a pod now. @throws CNI, TIMEOUT by the first that could not */
export async function cniStatus(network: CniNetwork, binDirs: readonly string[]): Promise<void> {
  const deadline = performance.now() + statusTimeoutMs;
  for (const plugin of network.plugins)
    await runPlugin({
      command: "STATUS",
      type: plugin.type,
      binDirs,
      input: inputOf(network, plugin, {}),
      env: {},
      timeoutMs: Math.max(1, Math.ceil(deadline - performance.now())),
    });
}

/** Tells each plugin which sandboxes still have an attachment; it lets go of all others. What failed, by plugin. */
export async function cniCollectGarbage(
  network: CniNetwork,
  binDirs: readonly string[],
  sandboxIds: readonly string[],
): Promise<readonly string[]> {
  const valid = sandboxIds.map((containerID) => ({ containerID, ifname: podInterfaceName }));
  // The second is what the specification's first edition of 1.1 called it.
  const input = { "cni.dev/valid-attachments": valid, "cni.dev/attachments": valid };
  const failures: string[] = [];
  for (const plugin of network.plugins) {
    try {
      await runPlugin({
        command: "GC",
        type: plugin.type,
        binDirs,
        input: inputOf(network, plugin, input),
        env: {},
        timeoutMs: pluginTimeoutMs,
      });
    } catch (cause) {
      failures.push(TinderboxError.from(cause, "CNI").message);
    }
  }
  return failures;
}
