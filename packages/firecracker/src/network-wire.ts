/** Bodies of the network, vsock and MMDS endpoints, spelled as on the wire. */
import type { RateLimiterWire } from "./rate-limit-wire.ts";

/** A virtio-net interface on a tap. After start (1.16+, `--enable-pci`) a PUT plugs it in. */
export type NetworkInterfaceWire = {
  /** Letters, digits and `_` */
  readonly iface_id: string;
  /** A tap in the VMM's network namespace, opened at once */
  readonly host_dev_name: string;
  /** `xx:xx:xx:xx:xx:xx`. @default the guest's choice */
  readonly guest_mac?: string;
  /** 68..65535, told to the guest; since 1.16 */
  readonly mtu?: number;
  /** Of what the guest receives */
  readonly rx_rate_limiter?: RateLimiterWire;
  /** Of what the guest sends */
  readonly tx_rate_limiter?: RateLimiterWire;
};

/** Other limits, after start. */
export type NetworkInterfacePatchWire = {
  /** Of an interface that is there */
  readonly iface_id: string;
  /** Of what the guest receives; absent buckets stay */
  readonly rx_rate_limiter?: RateLimiterWire;
  /** Of what the guest sends; absent buckets stay */
  readonly tx_rate_limiter?: RateLimiterWire;
};

/** The one vsock device. */
export type VsockWire = {
  /** 3..4294967295 */
  readonly guest_cid: number;
  /** Bound at once; must not exist */
  readonly uds_path: string;
  /** @deprecated has no effect */
  readonly vsock_id?: string;
};

/** Where and how the guest reaches the metadata store. Kept in snapshots, the data is not. */
export type MmdsConfigWire = {
  /** Ids of interfaces that exist already, at least one */
  readonly network_interfaces: readonly string[];
  /** V2 asks for a session token. @default "V1", which is deprecated */
  readonly version?: "V1" | "V2";
  /** In 169.254.0.0/16. @default "169.254.169.254" */
  readonly ipv4_address?: string;
  /** Plain text whatever the guest accepts, as EC2 does. @default false; since 1.13 */
  readonly imds_compat?: boolean;
};
