/**
 * A Sandbox: a place with an agent in it, where the containers of one pod run. `host/` and `microvm/` implement it;
 * whatever is above does not know which one it has.
 */
import type { Duplex } from "node:stream";
import type { Image } from "../image/contract.ts";
import type { IdMapping, IdMaps } from "../network/contract.ts";
import type { ContainerState, ContainerStats, PodStats } from "../rpc/gen/tinderbox/agent/v1/agent_pb.ts";

export type SandboxSpec = {
  readonly id: string;
  readonly hostname: string;
  /** cgroupfs path of the pod below each hierarchy's root, no leading slash: `kubepods/pod-x` or `tinderbox/ID` */
  readonly cgroupPath: string;
  /** true when this sandbox made the cgroup's parent as well and may remove it */
  readonly network:
    | { readonly kind: "host" }
    | { readonly kind: "pod"; readonly netnsPath: string; readonly interfaces: readonly SandboxInterface[] };
  readonly resolvConf: string;
  readonly sysctls: Readonly<Record<string, string>>;
  /** NamespaceMode POD for pid: containers see each other's processes */
  readonly sharedPidNamespace: boolean;
  readonly hostPid: boolean;
  readonly hostIpc: boolean;
  /** On the host the network namespace belongs to it already */
  readonly userNamespace?: IdMaps;
  /** microVM only; the runtime handler's figures unless the pod asks for others */
  readonly vcpus: number;
  readonly memoryMib: number;
  /** OCI runtime used for the containers: `crun`, `runc` or a path. In a microVM always the guest's crun. */
  readonly runtime: string;
};

export type SandboxInterface = {
  readonly name: string;
  readonly mac: string;
  readonly addresses: readonly string[];
  readonly routes: readonly { readonly destination: string; readonly gateway: string }[];
  readonly mtu: number;
  /** The tap that the microVM's device is on; made by network/, in the pod's netns. Host sandboxes: undefined */
  readonly tap?: string;
};

/** A mount that is made ready before the OCI runtime binds it, from `@mounts/NAME` */
export type PreparedMount = {
  readonly name: string;
  readonly source:
    | { readonly kind: "path"; readonly path: string }
    | { readonly kind: "image"; readonly image: Image };
  /** Below the source, followed without leaving it; "" for the source itself */
  readonly subPath: string;
  readonly recursiveReadOnly: boolean;
  readonly uidMappings: readonly IdMapping[];
  readonly gidMappings: readonly IdMapping[];
};

/** A host directory or file in a microVM's container. On the host the OCI spec names the source itself. */
export type ContainerVolume = {
  /** The OCI spec's mounts name it as `@volumes/NAME` */
  readonly name: string;
  readonly hostPath: string;
  readonly readonly: boolean;
  /** What is mounted below `hostPath` is read-only, too */
  readonly recursiveReadOnly: boolean;
  /** What the host mounts below `hostPath` later appears in the container: `rslave` */
  readonly propagation: "private" | "rslave";
  /** The mount's own, `inside` an id on the disk, `outside` on the host; both or none */
  readonly uidMappings: readonly IdMapping[];
  readonly gidMappings: readonly IdMapping[];
};

/** A block device of the host in a microVM's container. On the host the OCI spec has the device itself. */
export type ContainerBlockDevice = {
  /** What the request calls `hostPath`, for errors: `devices[0].host_path` */
  readonly field: string;
  readonly hostPath: string;
  readonly containerPath: string;
  /** Some of r, w and m; without w the VMM lets nobody in the microVM write */
  readonly access: string;
  /** Permission bits and owner of the node. @default the host's */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
};

export type ContainerSpec = {
  readonly id: string;
  readonly image: Image;
  /** OCI runtime spec; root.path is set by the agent */
  readonly ociSpec: object;
  /** microVM only; else empty */
  readonly volumes: readonly ContainerVolume[];
  /** microVM only; else empty */
  readonly blockDevices: readonly ContainerBlockDevice[];
  readonly readonlyRootfs: boolean;
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  /** Absolute path of the CRI log file; "" = none */
  readonly logPath: string;
  readonly mounts: readonly PreparedMount[];
  readonly files: readonly { readonly name: string; readonly content: Uint8Array; readonly mode: number }[];
};

/** Absolute paths of what a container on the host is made of, and the OCI runtime that knows it */
export type ContainerFiles = {
  readonly runtime: string;
  /** Its `--root` */
  readonly runtimeRoot: string;
  /** `config.json`, and `rootfs`, where the root file system is mounted */
  readonly bundle: string;
  /** `upper` in it is what the container changed of the image */
  readonly upper: string;
};

export type ExecOptions = {
  readonly processJson: object;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly terminal: boolean;
  readonly timeoutMs: number;
};

export type AttachOptions = { readonly stdin: boolean; readonly stdout: boolean; readonly stderr: boolean };

export type ExitResult = { readonly code: number; readonly timedOut: boolean; readonly error: string };

/** The streams of an exec or attach. Reading slowly slows the process, never the daemon. */
export type ProcessStreams = {
  /** Writing ends with `endStdin`; resolves when the socket has taken the bytes. */
  writeStdin(chunk: Uint8Array): Promise<void>;
  endStdin(): void;
  /** Chunks in the order they were produced. Ends when the process and its outputs have. */
  output(): AsyncIterable<{ readonly channel: "stdout" | "stderr"; readonly data: Uint8Array }>;
  resize(width: number, height: number): void;
  readonly exit: Promise<ExitResult>;
  close(): void;
};

export type SandboxEvent =
  | { readonly kind: "container"; readonly state: ContainerState }
  | { readonly kind: "oom"; readonly containerId: string }
  /** The place itself is gone (VMM or agent died): every container in it has ended. */
  | { readonly kind: "gone"; readonly reason: string };

export type Sandbox = {
  readonly id: string;
  readonly place: "host" | "microvm";
  /** What must be kept (as JSON) for `recover`; stable once `start` has returned. */
  readonly record: SandboxRecord;
  createContainer(spec: ContainerSpec, signal: AbortSignal): Promise<ContainerState>;
  startContainer(id: string, signal: AbortSignal): Promise<ContainerState>;
  containerState(id: string): Promise<ContainerState>;
  listContainers(): Promise<readonly ContainerState[]>;
  signalContainer(id: string, signalNumber: number, all: boolean): Promise<void>;
  /** Kills what is left of it, removes it and gives back its rootfs. A missing one is fine. */
  deleteContainer(id: string): Promise<void>;
  reopenLog(id: string, logPath: string): Promise<void>;
  /** `oomScoreAdj` undefined: stays as it is */
  updateContainer(id: string, resourcesJson: object, oomScoreAdj: number | undefined): Promise<void>;
  containerStats(id: string): Promise<ContainerStats>;
  podStats(): Promise<PodStats>;
  /** What a host sandbox has of a container; undefined in a microVM. */
  containerFiles(id: string): ContainerFiles | undefined;
  exec(id: string, options: ExecOptions): Promise<ProcessStreams>;
  attach(id: string, options: AttachOptions): Promise<ProcessStreams>;
  /** A connection to localhost:port in the pod. */
  connect(port: number): Promise<Duplex>;
  /** Exits, state changes, OOM kills, the end of the place; the first call starts the flow. One listener. */
  onEvent(listener: (event: SandboxEvent) => void): void;
  /** Ends the place and everything in it, and removes every trace of it but the network. May be called again. */
  destroy(): Promise<void>;
  /** Lets go of connections; the place lives on (daemon shutdown). */
  detach(): Promise<void>;
};

/**
 * What agents and machines started now can do. Sandboxes outlive their daemon and meet the next version's, so this is one
 * more with each change that a running one cannot follow: 2 has a /dev/shm for the whole pod, and block devices in microVMs.
 */
export const sandboxGeneration = 2;

/** Enough to find a sandbox again, or to remove every trace of one whose start was cut short. */
export type SandboxRecord = {
  readonly id: string;
  readonly place: "host" | "microvm";
  readonly handler: string;
  readonly directory: string;
  /** `sandboxGeneration` when it was made; the first generation has none */
  readonly generation?: number;
  readonly spec: SandboxSpec;
};

/** Makes sandboxes of one kind for one runtime handler. */
export type SandboxFactory = {
  readonly place: "host" | "microvm";
  readonly handler: string;
  /** What a start of `spec` would journal; write it before calling `start`. */
  plan(spec: SandboxSpec): SandboxRecord;
  start(record: SandboxRecord, signal: AbortSignal): Promise<Sandbox>;
  /** After a daemon restart: the live sandbox, or undefined when it is gone or unusable (then call `clean`). */
  recover(record: SandboxRecord, images: ReadonlyMap<string, Image>): Promise<Sandbox | undefined>;
  /** Removes whatever a sandbox of this record left behind: processes, mounts, cgroups, sockets, files. */
  clean(record: SandboxRecord): Promise<void>;
};
