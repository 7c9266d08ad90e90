/** What a guest must be told of one network interface, and how much of it the kernel's `ip=` argument can carry. */
import { isIPv4 } from "node:net";
import type { NetworkInterfaceWire } from "../network-wire.ts";

/** An address of the guest. */
export type GuestAddress = {
  /** With its prefix length: `10.0.0.2/24`, `fd00::2/64` */
  readonly address: string;
  /** The next hop for all that is elsewhere */
  readonly gateway?: string;
};

/** A route of the guest. */
export type GuestRoute = {
  /** `0.0.0.0/0`, `::/0`, `10.1.0.0/16` */
  readonly destination: string;
  /** @default the interface's own network */
  readonly gateway?: string;
};

/** One network interface as the guest must have it. */
export type GuestNetwork = {
  /** The tap on the host */
  readonly tapName: string;
  /** Path of the network namespace that the tap is in, and the VMM must be. @default the caller's */
  readonly netns?: string;
  /** The guest's own. @default random */
  readonly mac?: string;
  /** Bytes. @default 1500 */
  readonly mtu?: number;
  /** IPv4 and IPv6, in the order of the result */
  readonly addresses: readonly GuestAddress[];
  /** Beside those that follow from the addresses */
  readonly routes: readonly GuestRoute[];
  /** IP addresses, as many as there are */
  readonly nameservers: readonly string[];
  /** The resolver's local domain */
  readonly domain?: string;
  /** Domains to look names up in */
  readonly search: readonly string[];
  /** As in resolv.conf's `options` */
  readonly resolverOptions: readonly string[];
};

/** `ip=` and what it cannot say, which something in the guest has to do. */
export type BootNetwork = {
  /** For the kernel's command line; undefined when there is no IPv4 address to give */
  readonly argument: string | undefined;
  /** Further IPv4 and all IPv6 addresses */
  readonly addresses: readonly GuestAddress[];
  /** All but the IPv4 default route that the argument carries */
  readonly routes: readonly GuestRoute[];
  /** The third and following; the kernel gives the first two in /proc/net/pnp only */
  readonly nameservers: readonly string[];
};

/** The body for `putNetworkInterface`. `announceMtu` sends the MTU too, which VMMs know from 1.16 on. */
export function networkInterface(
  network: GuestNetwork,
  ifaceId: string,
  options: { readonly announceMtu?: boolean } = {},
): NetworkInterfaceWire {
  return {
    iface_id: ifaceId,
    host_dev_name: network.tapName,
    ...(network.mac !== undefined && { guest_mac: network.mac }),
    ...(options.announceMtu && network.mtu !== undefined && { mtu: network.mtu }),
  };
}

function netmask(prefix: number): string {
  const bits = prefix === 0 ? 0 : (0xffff_ffff << (32 - prefix)) >>> 0;
  return [24, 16, 8, 0].map((shift) => (bits >>> shift) & 255).join(".");
}

/**
 * The kernel's own static configuration, for a guest without an agent; its kernel needs CONFIG_IP_PNP. `device` is the
 * interface's name in the guest.
 */
export function bootNetwork(network: GuestNetwork, device = "eth0"): BootNetwork {
  const first = network.addresses.find(({ address }) => isIPv4(address.split("/")[0] ?? ""));
  if (first === undefined)
    return {
      argument: undefined,
      addresses: network.addresses,
      routes: network.routes,
      nameservers: network.nameservers,
    };
  const [address = "", prefix = "32"] = first.address.split("/");
  const byDefault = network.routes.find(({ destination }) => destination === "0.0.0.0/0");
  const gateway = first.gateway ?? byDefault?.gateway ?? "";
  // /proc/net/pnp holds IPv4 addresses only.
  const nameservers = network.nameservers.filter((server) => isIPv4(server)).slice(0, 2);
  const [primary = "", secondary = ""] = nameservers;
  return {
    // client : server : gateway : mask : hostname : device : autoconf : dns : dns
    argument: `ip=${address}::${gateway}:${netmask(Number(prefix))}::${device}:off:${primary}:${secondary}`,
    addresses: network.addresses.filter((other) => other !== first),
    routes: network.routes.filter(
      (route) => !(route === byDefault && (route.gateway ?? gateway) === gateway && gateway !== ""),
    ),
    nameservers: network.nameservers.filter((server) => !nameservers.includes(server)),
  };
}
