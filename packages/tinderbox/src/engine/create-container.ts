/** CreateContainer and StartContainer. */
import { mkdir, readFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { type ContainerEdits, noEdits } from "../cdi/contract.ts";
import type { Image } from "../image/contract.ts";
import { sharedMemoryPath } from "../sandbox/sandbox-directory.ts";
import { allCapabilities, hostCapabilities } from "./capability-set.ts";
import type { Container, ContainerConfig, PodConfig } from "./contract.ts";
import { type ContainerEntry, type EngineState, nowNs, type PodEntry } from "./engine-state.ts";
import { guestDevices } from "./guest-devices.ts";
import { guestVolumes } from "./guest-volumes.ts";
import { hostHasCgroupV2, lowestOomScoreAdj } from "./host-features.ts";
import { newId } from "./id-index.ts";
import { checkPropagation } from "./mount-propagation.ts";
import { buildOciSpec, type PlaceFacts, type sentFiles } from "./oci-spec.ts";
import { releaseImages } from "./remove-container.ts";
import { logDirectoryOf } from "./run-pod.ts";
import { readSeccompProfile } from "./seccomp-profile.ts";
import { signalNumber } from "./signal-number.ts";
import { makeMissingSources, prepareMounts, volumeImages } from "./volumes.ts";

const createTimeoutMs = 4 * 60_000;
const startTimeoutMs = 2 * 60_000;

function imageFor(state: EngineState, config: ContainerConfig): Image {
  const image = state.parts.images.get(config.image);
  if (!image)
    throw new TinderboxError("NOT_FOUND", `image ${JSON.stringify(config.image)} is not on this node`, {
      hint: "Pull it first.",
    });
  // Again: the policy may be another one than at the pull, or the image came by another way.
  state.parts.images.checkPolicy(image.id, config.userImage);
  return image;
}

/** The log file's path: below the pod's log directory, whatever the request says. */
export function containerLogPath(directory: string, logPath: string): string {
  if (logPath === "") return "";
  const parts = logPath.split("/");
  if (parts.some((part) => part === "" || part === "." || part === "..") || logPath.includes("\0")) {
    throw new TinderboxError(
      "INVALID",
      `log_path ${JSON.stringify(logPath)}: a path inside the pod's log directory is allowed, without ".", ".." and empty parts`,
    );
  }
  return join(resolve(directory), ...parts);
}

async function placeFacts(
  { parts }: EngineState,
  pod: PodEntry,
  { security }: ContainerConfig,
  edits: ContainerEdits,
): Promise<PlaceFacts> {
  const { record } = pod.stored;
  if (!record) throw new TinderboxError("WRONG_STATE", `pod ${pod.stored.pod.id} has no sandbox`);
  const isHost = record.place === "host";
  const capabilities = isHost ? hostCapabilities() : allCapabilities;
  return {
    place: record.place,
    podCgroupPath: record.spec.cgroupPath,
    shmPath: sharedMemoryPath(record),
    hasCgroupV2: isHost ? hostHasCgroupV2() : true,
    capabilities,
    lowestOomScoreAdj: isHost ? lowestOomScoreAdj() : -1000,
    hostname: record.spec.hostname,
    // A guest's kernel has no profiles: there it is the machine that confines.
    appArmor: isHost ? parts.appArmor : { kind: "off" },
    edits: isHost ? edits : { ...noEdits, env: edits.env },
    seccompFile:
      security.seccomp.kind === "file" && !security.privileged
        ? await readSeccompProfile(security.seccomp.path)
        : undefined,
  };
}

const saidClamped = new WeakSet<EngineState>();

/** Once for a daemon: every guaranteed pod of a kubelet asks for it. */
function sayWhenClamped(state: EngineState, wanted: number, lowest: number): void {
  if (wanted >= lowest || saidClamped.has(state)) return;
  saidClamped.add(state);
  state.parts.logger.warn(
    "oom_score_adj cannot be lowered here (no CAP_SYS_RESOURCE): containers get the lowest there is",
    {
      wanted,
      lowest,
    },
  );
}

async function hostsFile(config: PodConfig, hostname: string, ips: readonly string[]): Promise<string> {
  if (config.namespaces.network === "node") return readFile("/etc/hosts", "utf8").catch(() => "");
  const own = ips.map((ip) => `${ip}\t${hostname}\n`).join("");
  return `127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n${own}`;
}

async function filesFor(
  pod: PodEntry,
  hostname: string,
): Promise<ReadonlyArray<{ name: string; content: Uint8Array; mode: number }>> {
  const { pod: about, record } = pod.stored;
  const texts: Readonly<Record<keyof typeof sentFiles, string>> = {
    "resolv.conf": record?.spec.resolvConf ?? "",
    hostname: `${hostname}\n`,
    hosts: await hostsFile(about.config, hostname, about.ips),
  };
  return Object.entries(texts).map(([name, text]) => ({ name, content: Buffer.from(text), mode: 0o644 }));
}

function checkPidMode(pod: PodEntry, config: ContainerConfig): void {
  const shared = pod.stored.pod.config.namespaces.pid;
  if (config.security.pid.mode === "pod" && shared !== "pod") {
    throw new TinderboxError(
      "INVALID",
      `namespace_options.pid POD: the pod was made with ${shared.toUpperCase()}, and shares no PID namespace`,
    );
  }
}

/** With the target's whole id: the agent knows no other. */
function withTarget(state: EngineState, podId: string, config: ContainerConfig): ContainerConfig {
  const { pid } = config.security;
  if (pid.mode !== "target") return config;
  const { container } = state.container(pid.targetId).stored;
  if (container.podId !== podId)
    throw new TinderboxError("INVALID", `namespace_options.target_id ${pid.targetId}: it is in another pod`);
  return { ...config, security: { ...config.security, pid: { ...pid, targetId: container.id } } };
}

async function create(state: EngineState, pod: PodEntry, asked: ContainerConfig): Promise<Container> {
  const podId = pod.stored.pod.id;
  const sandbox = state.sandboxOf(podId);
  const config = withTarget(state, podId, asked);
  checkPidMode(pod, config);
  const id = newId();
  const image = imageFor(state, config);
  const edits = config.cdiDevices.length === 0 ? noEdits : await state.parts.cdi.edits(config.cdiDevices);
  const facts = await placeFacts(state, pod, config, edits);
  sayWhenClamped(state, config.resources.oomScoreAdj, facts.lowestOomScoreAdj);
  const { spec, user } = buildOciSpec(id, pod.stored.pod.config, config, image, facts);
  const isGuest = facts.place === "microvm";
  const volumes = isGuest ? guestVolumes(config) : [];
  const blockDevices = isGuest ? guestDevices(pod.stored.pod.config, config, edits) : [];
  const stopSignal = config.stopSignal || image.config.stopSignal || "SIGTERM";
  signalNumber(stopSignal);
  const logPath = containerLogPath(logDirectoryOf(state, pod.stored.pod.config, podId), config.logPath);
  const container: Container = {
    id,
    podId,
    config,
    imageId: image.id,
    volumeImageIds: volumeImages(config, state.parts.images),
    imageRef: image.repoDigests[0] ?? image.id,
    createdAtNs: nowNs(),
    phase: { kind: "created" },
    logPath,
    user,
    stopSignal,
  };
  const entry: ContainerEntry = {
    stored: { container, stage: "creating", process: spec.process },
    wasOomKilled: false,
    stop: undefined,
  };
  state.saveContainer(entry, {});
  try {
    const held = state.parts.images.hold(image.id, id);
    if (logPath !== "") await mkdir(dirname(logPath), { recursive: true, mode: 0o700 });
    const mounts = prepareMounts(config, container.volumeImageIds, state.parts.images, id, facts.place);
    await makeMissingSources(config);
    checkPropagation(config);
    await sandbox.createContainer(
      {
        id,
        image: held,
        ociSpec: spec,
        volumes,
        blockDevices,
        // The agent decides by this alone; the image must then have the mount points (/dev, /proc, /etc/hosts, ...).
        readonlyRootfs: config.security.readonlyRootfs,
        terminal: config.tty,
        stdin: config.stdin,
        stdinOnce: config.stdinOnce,
        logPath,
        mounts,
        files: await filesFor(pod, facts.hostname),
      },
      AbortSignal.timeout(createTimeoutMs),
    );
    // The pod may have been stopped meanwhile; then its end has not ended this one.
    state.sandboxOf(podId);
    state.containers.set(id, entry);
    state.saveContainer(entry, {}, "made");
  } catch (cause) {
    state.containers.delete(id);
    await sandbox.deleteContainer(id).catch(() => {});
    await releaseImages(state, container);
    state.store.deleteContainer(id);
    throw cause;
  }
  state.emit("created", id, podId);
  return entry.stored.container;
}

/** Makes a container, joins the making of it, or gives the one that has the same name and attempt. */
export function createContainer(
  state: EngineState,
  podId: string,
  config: ContainerConfig,
): Promise<Container> {
  const pod = state.pod(podId);
  const { id } = pod.stored.pod;
  return state.once(`create-container ${JSON.stringify([id, config.name, config.attempt])}`, async () => {
    const same = state
      .containersOf(id)
      .find(
        ({ stored: { container } }) =>
          container.config.name === config.name && container.config.attempt === config.attempt,
      );
    if (same?.stored.stage === "made") return same.stored.container;
    if (same)
      throw new TinderboxError(
        "EXISTS",
        `container ${config.name}, attempt ${config.attempt}: ${same.stored.container.id} is being removed`,
      );
    return create(state, pod, config);
  });
}

/** Starts a created container. */
export function startContainer(state: EngineState, entry: ContainerEntry): Promise<void> {
  const { id, podId, createdAtNs } = entry.stored.container;
  return state.once(`start-container ${id}`, async () => {
    const { phase } = entry.stored.container;
    if (phase.kind !== "created" || entry.stored.stage !== "made")
      throw new TinderboxError("WRONG_STATE", `container ${id} is ${phase.kind}; it must be created`);
    try {
      state.applyState(await state.sandboxOf(podId).startContainer(id, AbortSignal.timeout(startTimeoutMs)));
    } catch (cause) {
      const { message } = TinderboxError.from(cause);
      const finishedAtNs = nowNs();
      state.setPhase(entry, {
        kind: "exited",
        startedAtNs: createdAtNs,
        finishedAtNs,
        exitCode: 128,
        reason: "StartError",
        message,
      });
      throw cause;
    }
  });
}
