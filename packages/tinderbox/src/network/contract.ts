/** Pod networks: a namespace, CNI's interfaces in it, and for a microVM the taps joined to them. */
import type { SandboxInterface } from "../sandbox/contract.ts";

export type PortMapping = {
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly containerPort: number;
  readonly hostPort: number;
  readonly hostIp: string;
};

export type PodNetworkRequest = {
  readonly sandboxId: string;
  readonly podName: string;
  readonly podNamespace: string;
  readonly podUid: string;
  readonly portMappings: readonly PortMapping[];
  /** join each interface to a tap for a VMM */
  readonly withTap: boolean;
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
  /** CNI DEL and removal of the namespace, from what is kept on disk; may be called again, at any stage, also after a crash or reboot. */
  tearDown(sandboxId: string): Promise<void>;
  /** Sandbox ids that have something on disk here. */
  known(): Promise<readonly string[]>;
};
