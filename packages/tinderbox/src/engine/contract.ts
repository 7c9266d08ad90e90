/** What the doors (CRI, later the shim) see of pods and containers. No gRPC types here. */
import type { Duplex } from "node:stream";
import type { CdiRequest, CdiStatus } from "../cdi/contract.ts";
import type { Digest, ImageService } from "../image/contract.ts";
import type { CriuSupport } from "../native/criu-support.ts";
import type { IdMapping, IdMaps, NetworkStatus, PortMapping } from "../network/contract.ts";
import type { AttachOptions, ProcessStreams } from "../sandbox/contract.ts";
import type { AppArmorChoice } from "./app-armor.ts";
import type { HandlerFeatures } from "./host-features.ts";
import type { SeccompChoice } from "./seccomp-profile.ts";

export type NamespaceMode = "pod" | "container" | "node" | "target";

export type PodConfig = {
  readonly name: string;
  readonly uid: string;
  readonly namespace: string;
  readonly attempt: number;
  readonly hostname: string;
  readonly logDirectory: string;
  readonly dns:
    | {
        readonly servers: readonly string[];
        readonly searches: readonly string[];
        readonly options: readonly string[];
      }
    | undefined;
  readonly portMappings: readonly PortMapping[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly cgroupParent: string;
  readonly sysctls: Readonly<Record<string, string>>;
  /** What its containers may use together, and what the pod costs beside them; a microVM is made large enough */
  readonly resources: PodResources;
  readonly overhead: PodResources;
  readonly namespaces: {
    readonly network: "pod" | "node";
    readonly pid: "pod" | "container" | "node";
    readonly ipc: "pod" | "node";
    /** Absent: the host's */
    readonly user?: IdMaps;
  };
  readonly privileged: boolean;
  readonly readonlyRootfs: boolean;
};

/** Zero: not said */
export type PodResources = Pick<LinuxResources, "cpuPeriod" | "cpuQuota" | "memoryLimitBytes">;

export type Pod = {
  readonly id: string;
  readonly config: PodConfig;
  readonly handler: string;
  readonly state: "ready" | "notready";
  readonly createdAtNs: bigint;
  readonly ips: readonly string[];
};

/** What a request says of an image beside its name; nothing depends on it, statuses tell it back */
export type ImageNotes = {
  readonly annotations: Readonly<Record<string, string>>;
  readonly runtimeHandler: string;
  /** As the user wrote the name, "" when that is not said */
  readonly userImage: string;
};

export type Mount = {
  readonly containerPath: string;
  readonly source:
    | { readonly kind: "path"; readonly path: string }
    /** Any form that ImageService.get takes; always read-only. `subPath` "" is the whole image */
    | {
        readonly kind: "image";
        readonly image: string;
        readonly subPath: string;
        readonly notes?: ImageNotes;
      };
  readonly readonly: boolean;
  /** The mounts below it are read-only as well */
  readonly recursiveReadOnly: boolean;
  /** An id-mapped mount when there are any */
  readonly uidMappings: readonly IdMapping[];
  readonly gidMappings: readonly IdMapping[];
  readonly propagation: "private" | "rslave" | "rshared";
};
export type Device = {
  readonly containerPath: string;
  readonly hostPath: string;
  readonly permissions: string;
};

export type LinuxResources = {
  readonly cpuPeriod: number;
  readonly cpuQuota: number;
  readonly cpuShares: number;
  readonly memoryLimitBytes: number;
  readonly oomScoreAdj: number;
  readonly cpusetCpus: string;
  readonly cpusetMems: string;
  readonly hugepageLimits: readonly { readonly pageSize: string; readonly limit: number }[];
  readonly unified: Readonly<Record<string, string>>;
  readonly memorySwapLimitBytes: number;
};

export type ContainerSecurity = {
  readonly privileged: boolean;
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  readonly addAmbientCapabilities: readonly string[];
  readonly pid: { readonly mode: NamespaceMode; readonly targetId: string };
  readonly ipc: NamespaceMode;
  readonly runAsUser: number | undefined;
  readonly runAsUsername: string;
  readonly runAsGroup: number | undefined;
  readonly supplementalGroups: readonly number[];
  readonly supplementalGroupsPolicy: "merge" | "strict";
  readonly readonlyRootfs: boolean;
  readonly noNewPrivs: boolean;
  /** Not applied to a privileged container */
  readonly seccomp: SeccompChoice;
  readonly appArmor: AppArmorChoice;
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
};

export type ContainerConfig = {
  readonly name: string;
  readonly attempt: number;
  /** Any form that ImageService.get takes; `userImage` is what the user wrote */
  readonly image: string;
  readonly userImage: string;
  readonly imageNotes?: ImageNotes;
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly workingDir: string;
  /** Values are raw: an environment value need not be UTF-8 */
  readonly env: readonly { readonly key: string; readonly value: string }[];
  readonly mounts: readonly Mount[];
  readonly devices: readonly Device[];
  readonly cdiDevices: readonly CdiRequest[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Relative to the pod's log directory; "" = no log */
  readonly logPath: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly tty: boolean;
  readonly stopSignal: string;
  readonly resources: LinuxResources;
  readonly security: ContainerSecurity;
};

export type ContainerPhase =
  | { readonly kind: "created" }
  | { readonly kind: "running"; readonly startedAtNs: bigint }
  | {
      readonly kind: "exited";
      readonly startedAtNs: bigint;
      readonly finishedAtNs: bigint;
      readonly exitCode: number;
      readonly reason: string;
      readonly message: string;
    };

export type Container = {
  readonly id: string;
  readonly podId: string;
  readonly config: ContainerConfig;
  readonly imageId: Digest;
  /** Of its image volumes, by the index of the mount */
  readonly volumeImageIds: Readonly<Record<number, Digest>>;
  /** A repo digest of the image, or its id when it has none */
  readonly imageRef: string;
  readonly createdAtNs: bigint;
  readonly phase: ContainerPhase;
  /** Absolute, "" when there is none */
  readonly logPath: string;
  readonly user: {
    readonly uid: number;
    readonly gid: number;
    readonly supplementalGroups: readonly number[];
  };
  readonly stopSignal: string;
};

export type ExecRequest = {
  readonly command: readonly string[];
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly timeoutMs: number;
};

export type ContainerUsage = {
  readonly containerId: string;
  readonly timestampNs: bigint;
  readonly cpuUsageNs: bigint;
  readonly memoryUsageBytes: bigint;
  readonly memoryWorkingSetBytes: bigint;
  readonly memoryRssBytes: bigint;
  readonly pids: bigint;
  readonly pageFaults: bigint;
  readonly majorPageFaults: bigint;
  readonly writableBytes: bigint;
  readonly writableInodes: bigint;
  /** What else the kernel counts, by the names in native/src/agent/counters.rs; absent: not counted, or no limit */
  readonly counters: Readonly<Record<string, bigint>>;
  readonly io: readonly DeviceIo[];
  /** Absent: not counted */
  readonly pressure: Pressure | undefined;
  /** Each size that the kernel has */
  readonly hugePages: readonly {
    /** `2MB` */
    readonly pageSize: string;
    readonly usageBytes: bigint;
    readonly maxUsageBytes?: bigint | undefined;
  }[];
};

/** Time that tasks waited for want of something, and the share of the last 10, 60 and 300 s, per cent */
export type Stall = {
  readonly totalUs: bigint;
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
};
/** `some`: at least one task waited; `full`: all of them */
export type Stalls = { readonly some?: Stall | undefined; readonly full?: Stall | undefined };
/** Pressure stall information of the kernel; what it does not count is absent */
export type Pressure = {
  readonly cpu?: Stalls | undefined;
  readonly memory?: Stalls | undefined;
  readonly io?: Stalls | undefined;
};

export type DeviceIo = {
  readonly major: number;
  readonly minor: number;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
};

/** One direction of a network interface */
export type Traffic = {
  readonly bytes: bigint;
  readonly packets: bigint;
  readonly errors: bigint;
  readonly dropped: bigint;
};

export type PodUsage = {
  readonly timestampNs: bigint;
  readonly interfaces: readonly {
    readonly name: string;
    readonly received: Traffic;
    readonly sent: Traffic;
  }[];
  readonly pressure: Pressure | undefined;
};

export type EngineEvent = {
  readonly containerId: string;
  readonly podId: string;
  readonly kind: "created" | "started" | "stopped" | "deleted";
  readonly atNs: bigint;
};

export type HandlerInfo = {
  readonly name: string;
  readonly place: "host" | "microvm";
  readonly features: HandlerFeatures;
};

/** Ids may be given as unique prefixes. A missing pod or container throws NOT_FOUND unless said otherwise. */
export type Engine = {
  readonly images: ImageService;
  readonly handlers: readonly HandlerInfo[];
  readonly defaultHandler: string;
  networkStatus(): Promise<NetworkStatus>;
  /** The addresses that this node's pods are to have: at most one CIDR of each family. @throws INVALID */
  setPodCidrs(podCidrs: readonly string[]): Promise<void>;
  /** What CDI devices this node has now */
  cdiStatus(): Promise<CdiStatus>;
  /** The same metadata again while it is made, or when it is ready, gives the same pod. `handler` "" is the default. */
  runPod(config: PodConfig, handler: string, signal: AbortSignal): Promise<Pod>;
  /** Idempotent; a missing pod is fine. */
  stopPod(id: string): Promise<void>;
  /** Stops first; removes its containers; a missing pod is fine. */
  removePod(id: string): Promise<void>;
  pod(id: string): Pod;
  pods(): readonly Pod[];
  createContainer(podId: string, config: ContainerConfig, signal: AbortSignal): Promise<Container>;
  startContainer(id: string, signal: AbortSignal): Promise<void>;
  /** Stop signal, then SIGKILL after `timeoutMs`; a later call may only shorten the wait. A missing or ended one is fine. */
  stopContainer(id: string, timeoutMs: number): Promise<void>;
  /** Kills first; a missing one is fine. */
  removeContainer(id: string): Promise<void>;
  container(id: string): Container;
  /** The first process of a container as this host numbers it; 0: it does not run, or its process is a guest's. */
  containerPid(id: string): Promise<number>;
  containers(): readonly Container[];
  reopenLog(id: string): Promise<void>;
  updateResources(id: string, resources: LinuxResources): Promise<void>;
  usage(id: string): Promise<ContainerUsage>;
  /** What the kubelet has given the pod from now on. @throws LIMIT when its microVM is smaller than that */
  updatePodResources(podId: string, resources: PodResources, overhead: PodResources): void;
  /** Whether containers of a handler can be checkpointed on this host; asks programs, every time. */
  checkpointSupport(handler: string): Promise<CriuSupport>;
  /** Processes and changed files as an archive at `location`, an absolute path; the container goes on running. */
  checkpointContainer(id: string, location: string, timeoutMs: number, signal: AbortSignal): Promise<void>;
  /** A pod in the node's network has no interfaces of its own. */
  podUsage(podId: string): Promise<PodUsage>;
  exec(id: string, request: ExecRequest): Promise<ProcessStreams>;
  attach(id: string, options: AttachOptions): Promise<ProcessStreams>;
  portForward(podId: string, port: number): Promise<Duplex>;
  /** Resolves with the container once it has exited. */
  waitContainer(id: string, signal: AbortSignal): Promise<Container>;
  subscribe(listener: (event: EngineEvent) => void): () => void;
  /** Lets go of everything that lives on; pods keep running. */
  close(): Promise<void>;
};
