/** Pod networks: a namespace, CNI's interfaces in it, and for a microVM the taps joined to them. */
import type { SandboxInterface } from "../sandbox/contract.ts";

export type PortMapping = {
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly containerPort: number;
  readonly hostPort: number;
  readonly hostIp: string;
};

/** One line of a user namespace's map */
export type IdMapping = { readonly inside: number; readonly outside: number; readonly length: number };
export type IdMaps = { readonly uids: readonly IdMapping[]; readonly gids: readonly IdMapping[] };

export type PodNetworkRequest = {
  readonly sandboxId: string;
  readonly podName: string;
  readonly podNamespace: string;
  readonly podUid: string;
  readonly portMappings: readonly PortMapping[];
  /** join each interface to a tap for a VMM */
  readonly withTap: boolean;
  /** The pod has a user namespace with these maps, which its network namespace is to belong to */
  readonly userNamespace?: IdMaps;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly dns?: {
    readonly servers: readonly string[];
    readonly searches: readonly string[];
    readonly options: readonly string[];
  };
  /** Of the pod, as the kubelet gives it; "" = none */
  readonly cgroupParent?: string;
  /** The node's, at most one for IPv4 and one for IPv6; the network service adds them */
  readonly podCidrs?: readonly string[];
};

/** Whether pods can have a network now. `message`: why not, or what is wrong all the same; "" = nothing */
export type NetworkStatus = { readonly isReady: boolean; readonly message: string };

export type PodNetwork = {
  readonly netnsPath: string;
  readonly interfaces: readonly SandboxInterface[];
  /** Pod IPs, primary first, no prefix length */
  readonly ips: readonly string[];
  readonly dns: {
    readonly nameservers: readonly string[];
    readonly search: readonly string[];
    readonly options: readonly string[];
  };
  /** With a tap: what plugins set in the namespace and the guest has to set itself */
  readonly sysctls?: Readonly<Record<string, string>>;
};

export type NetworkService = {
  /** Reads the configuration, and asks its plugins where it is of a version that has STATUS. */
  status(): Promise<NetworkStatus>;
  /** The addresses that this node's pods are to have, kept over restarts; plugins that take `ipRanges` get them. @throws INVALID */
  setPodCidrs(podCidrs: readonly string[]): Promise<void>;
  /** Makes namespace, interfaces and taps; on failure all of it is undone. Keeps the CNI result on disk before it returns. */
  setUp(request: PodNetworkRequest, signal: AbortSignal): Promise<PodNetwork>;
  /**
   * CNI CHECK with the result that is kept. Nothing is asked of a network that has no CHECK, nor of a chain's first plugin
   * where there is a tap. @throws CNI for what is missing, NOT_FOUND for a sandbox without a network
   */
  check(sandboxId: string): Promise<void>;
  /** CNI DEL and removal of the namespace, from what is kept on disk; may be called again, at any stage, also after a crash or reboot. */
  tearDown(sandboxId: string): Promise<void>;
  /** Sandbox ids that have something on disk here. */
  known(): Promise<readonly string[]>;
  /** CNI GC: tells the plugins of every network that is or was in use which sandboxes are attached. Failures are logged. */
  collectGarbage(): Promise<void>;
};
