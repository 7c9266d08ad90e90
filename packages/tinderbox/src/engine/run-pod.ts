/** RunPodSandbox: name, journal, network, sandbox, ready; and the undoing of each when a later one fails. */
import { mkdir, readFile, rm, rmdir } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname, isAbsolute, join, normalize } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import type { PodNetwork } from "../network/contract.ts";
import type { SandboxFactory, SandboxSpec } from "../sandbox/contract.ts";
import type { Pod, PodConfig } from "./contract.ts";
import { type EngineState, nowNs, type PodEntry } from "./engine-state.ts";
import { newId } from "./id-index.ts";
import { machineSize } from "./machine-size.ts";

/** A pod start has no caller to give it up: the kubelet's retry joins it. */
const startTimeoutMs = 10 * 60_000;

const nameOf = ({ name, namespace, uid, attempt }: PodConfig): string =>
  JSON.stringify([name, namespace, uid, attempt]);

function factoryFor(state: EngineState, handler: string): SandboxFactory {
  const name = handler === "" ? state.parts.config.defaultHandler : handler;
  const factory = state.parts.factories.get(name);
  if (!factory) {
    const allowed = [...state.parts.factories.keys()].join(", ");
    throw new TinderboxError("INVALID", `runtime handler ${JSON.stringify(name)}: ${allowed} are configured`);
  }
  return factory;
}

/** Only what belongs to a namespace of the pod may be set; a name is never part of a longer string. */
function checkSysctls(config: PodConfig): void {
  for (const [name, value] of Object.entries(config.sysctls)) {
    const isNet = /^net\.[a-z0-9_.-]+$/.test(name);
    const isIpc = /^(kernel\.(shm[a-z0-9_]*|msg[a-z0-9_]*|sem)|fs\.mqueue\.[a-z0-9_]+)$/.test(name);
    const isOwn =
      (isNet && config.namespaces.network === "pod") || (isIpc && config.namespaces.ipc === "pod");
    if (!isOwn || !/^[\x20-\x7e\t]{0,256}$/.test(value)) {
      throw new TinderboxError(
        "INVALID",
        `sysctls ${JSON.stringify(name)}=${JSON.stringify(value)}: net.* with the pod's own network, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* with its own IPC, and a value of one line are allowed`,
      );
    }
  }
}

function checkPlace(config: PodConfig, factory: SandboxFactory): void {
  if (factory.place !== "microvm") return;
  for (const kind of ["network", "pid", "ipc"] as const) {
    if (config.namespaces[kind] === "node") {
      throw new TinderboxError("INVALID", `namespace_options.${kind} NODE: not possible in a microVM`, {
        hint: "Use an OCI runtime handler for pods that need the host's namespaces; see LIMITATIONS.md.",
      });
    }
  }
}

function cgroupPathOf(config: PodConfig, id: string): string {
  const parts = config.cgroupParent.split("/").filter((part) => part !== "");
  if (parts.includes("..") || parts.includes("."))
    throw new TinderboxError(
      "INVALID",
      `cgroup_parent ${JSON.stringify(config.cgroupParent)}: no "." or ".." is allowed`,
    );
  // A cgroup of our own below the kubelet's: a pod's old sandbox is killed and removed while its next one starts.
  return parts.length === 0 ? `tinderbox/${id}` : [...parts, `tinderbox-${id}`].join("/");
}

/** Where the pod's container logs go. */
export function logDirectoryOf(state: EngineState, config: PodConfig, podId: string): string {
  return config.logDirectory === "" ? join(state.parts.config.root, "logs", podId) : config.logDirectory;
}

async function resolvConfOf(config: PodConfig, network: PodNetwork | undefined): Promise<string> {
  const fromNetwork = network && network.dns.nameservers.length > 0 ? network.dns : undefined;
  const dns =
    config.dns ??
    (fromNetwork && { ...fromNetwork, servers: fromNetwork.nameservers, searches: fromNetwork.search });
  if (!dns) return readFile("/etc/resolv.conf", "utf8").catch(() => "");
  const lines = [
    ...dns.servers.map((server) => `nameserver ${server}`),
    ...(dns.searches.length > 0 ? [`search ${dns.searches.join(" ")}`] : []),
    ...(dns.options.length > 0 ? [`options ${dns.options.join(" ")}`] : []),
  ];
  const bad = lines.find((line) => /[\n\r\0]/.test(line));
  if (bad !== undefined)
    throw new TinderboxError("INVALID", `dns_config ${JSON.stringify(bad)}: one line each is allowed`);
  return lines.map((line) => `${line}\n`).join("");
}

function specOf(
  state: EngineState,
  pod: Pod,
  network: PodNetwork | undefined,
  resolvConf: string,
): SandboxSpec {
  const { config, id, handler } = pod;
  const runtime = state.parts.config.runtimes?.get(handler);
  return {
    id,
    hostname: config.namespaces.network === "node" ? hostname() : config.hostname || id.slice(0, 12),
    cgroupPath: cgroupPathOf(config, id),
    network: network
      ? { kind: "pod", netnsPath: network.netnsPath, interfaces: network.interfaces }
      : { kind: "host" },
    resolvConf,
    sysctls: { ...network?.sysctls, ...config.sysctls },
    sharedPidNamespace: config.namespaces.pid === "pod",
    hostPid: config.namespaces.pid === "node",
    hostIpc: config.namespaces.ipc === "node",
    ...(config.namespaces.user ? { userNamespace: config.namespaces.user } : {}),
    ...machineSize(runtime, config.resources, config.overhead),
    runtime: runtime?.type === "oci" ? runtime.path || runtime.name : handler,
  };
}

/** Removes every trace of a pod that never became ready, or is not to be any more. */
export async function cleanPod(state: EngineState, entry: PodEntry): Promise<void> {
  const { record, pod } = entry.stored;
  if (entry.sandbox) {
    await entry.sandbox.destroy();
    entry.sandbox = undefined;
  } else if (record) {
    const factory = state.parts.factories.get(record.handler);
    if (!factory)
      throw new TinderboxError(
        "CONFIG",
        `runtime handler ${record.handler} of pod ${pod.id} is not configured any more`,
      );
    await factory.clean(record);
  }
  await state.parts.network.tearDown(pod.id);
}

/** Removes directories that we made, from `path` up to `top`, as long as nobody has put anything there. */
async function removeEmpty(path: string, top: string): Promise<void> {
  for (let at = path; at.startsWith(top); at = dirname(at))
    if (
      !(await rmdir(at).then(
        () => true,
        () => false,
      ))
    )
      return;
}

async function start(state: EngineState, config: PodConfig, factory: SandboxFactory): Promise<Pod> {
  const id = newId();
  cgroupPathOf(config, id);
  const signal = AbortSignal.timeout(startTimeoutMs);
  const pod: Pod = { id, config, handler: factory.handler, state: "notready", createdAtNs: nowNs(), ips: [] };
  const entry: PodEntry = {
    stored: { pod, stage: "starting", network: undefined, record: undefined },
    sandbox: undefined,
  };
  state.savePod(entry, {});
  const logs = logDirectoryOf(state, config, id);
  let madeLogs: string | undefined;
  try {
    madeLogs = await mkdir(logs, { recursive: true, mode: 0o700 });
    const network =
      config.namespaces.network === "pod"
        ? await state.parts.network.setUp(
            {
              sandboxId: id,
              podName: config.name,
              podNamespace: config.namespace,
              podUid: config.uid,
              portMappings: config.portMappings,
              withTap: factory.place === "microvm",
              // A microVM's is the VMM's; the pod's own is in the guest.
              ...(config.namespaces.user && factory.place === "host"
                ? { userNamespace: config.namespaces.user }
                : {}),
              annotations: config.annotations,
              cgroupParent: config.cgroupParent,
              ...(config.dns ? { dns: config.dns } : {}),
            },
            signal,
          )
        : undefined;
    const record = factory.plan(specOf(state, pod, network, await resolvConfOf(config, network)));
    state.savePod(entry, { record, network, pod: { ...pod, ips: network?.ips ?? [] } });
    const sandbox = await factory.start(record, signal);
    entry.sandbox = sandbox;
    state.savePod(entry, {
      record: sandbox.record,
      stage: "ready",
      pod: { ...entry.stored.pod, state: "ready" },
    });
  } catch (cause) {
    try {
      await cleanPod(state, entry);
      if (config.logDirectory === "") await rm(logs, { recursive: true, force: true });
      else if (madeLogs !== undefined) await removeEmpty(logs, madeLogs);
      state.store.deletePod(id);
    } catch (failure) {
      // The row stays: the next start of the daemon tries again.
      state.parts.logger.error("undoing a failed pod start", {
        pod: id,
        cause: TinderboxError.from(failure).message,
      });
    }
    throw cause;
  }
  state.pods.set(id, entry);
  if (entry.sandbox) state.follow(entry, entry.sandbox);
  state.emit("created", id, id);
  state.emit("started", id, id);
  return entry.stored.pod;
}

/** Starts a pod, joins its start, or gives the one that is ready. The caller's abort ends the wait, not the work. */
export function runPod(state: EngineState, config: PodConfig, handler: string): Promise<Pod> {
  const name = nameOf(config);
  return state.once(`run-pod ${name}`, async () => {
    const existing = [...state.pods.values()].find((one) => nameOf(one.stored.pod.config) === name);
    if (existing) {
      const { pod } = existing.stored;
      if (pod.state === "ready") return pod;
      throw new TinderboxError(
        "EXISTS",
        `pod ${config.namespace}/${config.name}, attempt ${config.attempt}: ${pod.id} has that name and is not ready; remove it first`,
      );
    }
    const factory = factoryFor(state, handler);
    checkPlace(config, factory);
    checkSysctls(config);
    const { logDirectory } = config;
    if (
      logDirectory !== "" &&
      (!isAbsolute(logDirectory) || normalize(logDirectory) !== logDirectory.replace(/(.)\/$/, "$1/"))
    )
      throw new TinderboxError(
        "INVALID",
        `log_directory ${JSON.stringify(logDirectory)}: an absolute path without "." and ".." is allowed`,
      );
    return start(state, config, factory);
  });
}
