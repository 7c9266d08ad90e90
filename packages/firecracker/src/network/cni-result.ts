/** A CNI plugin's result read as what a microVM needs of it. The result is checked: it comes from programs of others. */
import { isIPv4, isIPv6 } from "node:net";
import type { GuestAddress, GuestNetwork, GuestRoute } from "./guest-network.ts";
import { parseMac } from "./mac-address.ts";
import { FirecrackerNetworkError } from "./network-error.ts";

/** How the plugins were called, as far as the result does not say it. */
export type CniCall = {
  /** CNI_CONTAINERID: tc-redirect-tap names the guest's own interface by it */
  readonly containerId: string;
  /** CNI_IFNAME. @default the first interface in a namespace */
  readonly ifName?: string;
  /** The tap that joins the guest to that interface, where no plugin of the chain has made one */
  readonly tapName?: string;
};

type Json = Readonly<Record<string, unknown>>;
/** Empty text or 0 where the result says nothing. */
type CniInterface = Readonly<Record<"name" | "mac" | "sandbox", string>> & Readonly<Record<"mtu", number>>;

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function refuse(field: string, value: unknown, wanted: string): never {
  throw new FirecrackerNetworkError(field, `${JSON.stringify(value)?.slice(0, 200)} is not ${wanted}`);
}

function listOf(result: Json, key: string, field = key): readonly unknown[] {
  const value = result[key] ?? [];
  return Array.isArray(value) ? value : refuse(field, value, "an array");
}

function textOf(value: unknown, field: string): string {
  if (value === undefined || value === null) return "";
  return typeof value === "string" ? value : refuse(field, value, "a text");
}

function ipOf(value: unknown, field: string): string {
  const text = textOf(value, field);
  return isIPv4(text) || isIPv6(text) ? text : refuse(field, value, "an IP address");
}

function cidrOf(value: unknown, field: string): string {
  const [address = "", prefix = "", ...more] = textOf(value, field).split("/");
  const most = isIPv4(address) ? 32 : isIPv6(address) ? 128 : -1;
  if (!/^\d{1,3}$/.test(prefix) || Number(prefix) > most || more.length > 0)
    refuse(field, value, "an IP address with a prefix length");
  return `${address}/${Number(prefix)}`;
}

function interfaceOf(value: unknown, index: number): CniInterface {
  const field = `interfaces[${index}]`;
  if (!isObject(value)) return refuse(field, value, "an object");
  const { mtu } = value;
  if (mtu !== undefined && !(Number.isInteger(mtu) && Number(mtu) >= 0 && Number(mtu) <= 65_535))
    refuse(`${field}.mtu`, mtu, "within 0..65535");
  return {
    name: textOf(value["name"], `${field}.name`),
    mac: textOf(value["mac"], `${field}.mac`),
    sandbox: textOf(value["sandbox"], `${field}.sandbox`),
    mtu: Number(mtu ?? 0),
  };
}

function addressOf(value: unknown, index: number): GuestAddress & { readonly interfaceIndex: unknown } {
  const field = `ips[${index}]`;
  if (!isObject(value)) return refuse(field, value, "an object");
  const gateway = value["gateway"];
  return {
    address: cidrOf(value["address"], `${field}.address`),
    ...(gateway !== undefined && gateway !== "" && { gateway: ipOf(gateway, `${field}.gateway`) }),
    interfaceIndex: value["interface"],
  };
}

function routeOf(value: unknown, index: number): GuestRoute {
  const field = `routes[${index}]`;
  if (!isObject(value)) return refuse(field, value, "an object");
  const gateway = value["gw"];
  return {
    destination: cidrOf(value["dst"], `${field}.dst`),
    ...(gateway !== undefined && gateway !== "" && { gateway: ipOf(gateway, `${field}.gw`) }),
  };
}

/** The interface that holds the guest's addresses, and the tap. */
function choose(
  interfaces: readonly CniInterface[],
  call: CniCall,
): { guest: CniInterface; tap: string; netns: string } {
  const own = interfaces.filter(({ sandbox }) => sandbox === call.containerId);
  if (own.length > 1)
    throw new FirecrackerNetworkError(
      "interfaces",
      `${own.length} interfaces in the sandbox ${call.containerId}; one is wanted`,
    );
  const [guest] = own;
  if (guest) {
    // tc-redirect-tap: a tap in the namespace, and the guest's end under the same name in a sandbox named like the VM.
    const taps = interfaces.filter(
      ({ name, sandbox }) => name === guest.name && sandbox !== call.containerId,
    );
    const [tap, more] = taps;
    if (tap === undefined || more !== undefined)
      throw new FirecrackerNetworkError(
        "interfaces",
        `${taps.length} taps named ${JSON.stringify(guest.name)}; one is wanted`,
      );
    return { guest, tap: tap.name, netns: tap.sandbox };
  }
  const plain = interfaces.find(
    ({ name, sandbox }) => sandbox !== "" && (call.ifName === undefined || name === call.ifName),
  );
  if (plain === undefined)
    throw new FirecrackerNetworkError(
      "interfaces",
      `none named ${call.ifName ?? "at all"} in a network namespace`,
    );
  if (call.tapName === undefined)
    throw new FirecrackerNetworkError(
      "tapName",
      `no plugin of the chain has made a tap for ${plain.name}, so one must be named`,
    );
  return { guest: plain, tap: call.tapName, netns: plain.sandbox };
}

/**
 * Reads a result of CNI 0.3, 0.4, 1.0 or 1.1: of a chain that ends with tc-redirect-tap, or of plain plugins and a tap of
 * the caller's.
 * @throws {FirecrackerNetworkError} FC_NETWORK naming the part at fault
 */
export function networkFromCni(result: unknown, call: CniCall): GuestNetwork {
  if (!isObject(result)) return refuse("result", result, "an object");
  const version = result["cniVersion"];
  if (typeof version !== "string" || !/^(0\.[34]\.\d+|1\.[01]\.\d+)$/.test(version))
    refuse("cniVersion", version, "0.3, 0.4, 1.0 or 1.1");
  const interfaces = listOf(result, "interfaces").map(interfaceOf);
  const { guest, tap, netns } = choose(interfaces, call);
  const guestIndex = interfaces.indexOf(guest);
  const addresses = listOf(result, "ips")
    .map(addressOf)
    .filter(({ interfaceIndex }, index) => {
      if (interfaceIndex === undefined || interfaceIndex === null) return true;
      if (typeof interfaceIndex !== "number" || interfaces[interfaceIndex] === undefined)
        refuse(`ips[${index}].interface`, interfaceIndex, "the index of an interface");
      return interfaceIndex === guestIndex;
    })
    .map(({ interfaceIndex: _, ...address }) => address);
  const dns = result["dns"] ?? {};
  if (!isObject(dns)) return refuse("dns", dns, "an object");
  const texts = (key: string): string[] =>
    listOf(dns, key, `dns.${key}`).map((value, index) => textOf(value, `dns.${key}[${index}]`));
  const domain = textOf(dns["domain"], "dns.domain");
  const mtu = guest.mtu || interfaces.find(({ name }) => name === tap)?.mtu;
  return {
    tapName: tap,
    ...(netns !== "" && { netns }),
    ...(guest.mac !== "" && { mac: parseMac(guest.mac, `interfaces[${guestIndex}].mac`) }),
    ...(mtu && { mtu }),
    addresses,
    routes: listOf(result, "routes").map(routeOf),
    nameservers: listOf(dns, "nameservers", "dns.nameservers").map((value, index) =>
      ipOf(value, `dns.nameservers[${index}]`),
    ),
    ...(domain !== "" && { domain }),
    search: texts("search"),
    resolverOptions: texts("options"),
  };
}
