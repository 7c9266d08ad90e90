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
};

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
};

export type NetworkService = {
  /** Why pods cannot have a network now; undefined: they can. */
  notReady(): string | undefined;
  /** Makes namespace, interfaces and taps; on failure all of it is undone. Keeps the CNI result on disk before it returns. */
  setUp(request: PodNetworkRequest, signal: AbortSignal): Promise<PodNetwork>;
  /**
   * CNI CHECK with the result that is kept. Nothing is asked of a network that has no CHECK, nor of one with a tap, whose addresses
   * the guest has. @throws CNI for what is missing, NOT_FOUND for a sandbox without a network
   */
  check(sandboxId: string): Promise<void>;
  /** CNI DEL and removal of the namespace, from what is kept on disk; may be called again, at any stage, also after a crash or reboot. */
  tearDown(sandboxId: string): Promise<void>;
  /** Sandbox ids that have something on disk here. */
  known(): Promise<readonly string[]>;
};
