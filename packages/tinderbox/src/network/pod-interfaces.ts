/** What CNI made in a pod's network namespace, read back from the kernel, and its join to a tap for a VMM. */
import { BlockList, isIPv6 } from "node:net";
import { TinderboxError } from "../base/errors.ts";
import { run, tryRun } from "../native/run.ts";
import type { SandboxInterface } from "../sandbox/contract.ts";
import { isObject, type JsonObject } from "./cni-config.ts";

const tapName = "tap0";

function objectsOf(text: string): readonly JsonObject[] {
  const parsed: unknown = text.trim() === "" ? [] : JSON.parse(text);
  return Array.isArray(parsed) ? parsed.filter(isObject) : [];
}

const textOf = (value: unknown): string => (typeof value === "string" ? value : "");

async function readRoutes(
  netns: string,
  device: string,
  family: "-4" | "-6",
): Promise<SandboxInterface["routes"]> {
  const anywhere = family === "-4" ? "0.0.0.0/0" : "::/0";
  const hostBits = family === "-4" ? 32 : 128;
  return (
    objectsOf(await run("ip", ["-j", "-n", netns, family, "route", "show", "dev", device]))
      // The kernel's own follow from the addresses, wherever those are set.
      .filter((route) => route["protocol"] !== "kernel")
      .map((route) => {
        const to = textOf(route["dst"]);
        const destination = to === "default" ? anywhere : to.includes("/") ? to : `${to}/${hostBits}`;
        return { destination, gateway: textOf(route["gateway"]) };
      })
  );
}

/** Reads one interface with its global addresses and routes. */
export async function readInterface(netns: string, name: string): Promise<SandboxInterface> {
  const [links, routes] = await Promise.all([
    run("ip", ["-j", "-n", netns, "addr", "show", "dev", name]),
    readRoutes(netns, name, "-4"),
  ]);
  const found = objectsOf(links).find((link) => link["ifname"] === name);
  if (!found)
    throw new TinderboxError("CNI", `${name} is not in the network namespace ${netns} after CNI ADD`);
  const infos = Array.isArray(found["addr_info"]) ? found["addr_info"].filter(isObject) : [];
  const addresses = infos
    .filter((info) => info["scope"] !== "link" && typeof info["local"] === "string")
    .map((info) => `${info["local"]}/${info["prefixlen"]}`);
  const hasV6 = addresses.some((address) => address.includes(":"));
  return {
    name,
    mac: textOf(found["address"]),
    addresses,
    routes: [...routes, ...(hasV6 ? await readRoutes(netns, name, "-6") : [])],
    mtu: typeof found["mtu"] === "number" ? found["mtu"] : 1500,
  };
}

/**
 * The addresses as a guest gets them. Where a plugin has taken away the kernel's route to an address's subnet (ptp: all goes to the
 * gateway), the guest's kernel must not make it anew: such an address comes without a subnet.
 */
async function guestAddresses(
  netns: string,
  { name, addresses }: SandboxInterface,
): Promise<readonly string[]> {
  const onLink = new Map<string, BlockList>();
  for (const family of ["-4", "-6"]) {
    const text = await run("ip", [
      "-j",
      "-n",
      netns,
      family,
      "route",
      "show",
      "dev",
      name,
      "proto",
      "kernel",
    ]);
    for (const route of objectsOf(text)) {
      const [net = "", prefix = family === "-4" ? "32" : "128"] = textOf(route["dst"]).split("/");
      const subnets = onLink.get(prefix) ?? new BlockList();
      subnets.addSubnet(net, Number(prefix), family === "-4" ? "ipv4" : "ipv6");
      onLink.set(prefix, subnets);
    }
  }
  return addresses.map((address) => {
    const [ip = "", prefix = ""] = address.split("/");
    const isV6 = isIPv6(ip);
    if (onLink.get(prefix)?.check(ip, isV6 ? "ipv6" : "ipv4")) return address;
    return `${ip}/${isV6 ? 128 : 32}`;
  });
}

/**
 * Makes a tap and lets every frame pass between it and the interface, both ways. The interface's addresses are
 * taken from it: the guest has them now, and the host's kernel must not answer in its place.
 */
export async function joinTap(
  netns: string,
  iface: SandboxInterface,
  signal: AbortSignal,
): Promise<SandboxInterface> {
  const { name, mtu } = iface;
  const addresses = await guestAddresses(netns, iface);
  const links = [
    `tuntap add dev ${tapName} mode tap`,
    `link set dev ${tapName} mtu ${mtu} up`,
    `addr flush dev ${name}`,
    "",
  ];
  await run("ip", ["-n", netns, "-batch", "-"], { input: links.join("\n"), signal });
  const pass = (from: string, to: string): string =>
    `qdisc add dev ${from} ingress\n` +
    `filter add dev ${from} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ${to}\n`;
  await run("tc", ["-n", netns, "-batch", "-"], { input: pass(name, tapName) + pass(tapName, name), signal });
  return { ...iface, addresses, tap: tapName };
}

/** Gives the addresses back that the interface had after ADD: CNI DEL finds a pod's firewall rules by them. Fine when it cannot. */
export async function restoreAddresses(netns: string, iface: SandboxInterface): Promise<void> {
  const lines = iface.addresses.map((address) => `addr replace ${address} dev ${iface.name}\n`);
  await tryRun("ip", ["-n", netns, "-force", "-batch", "-"], { input: lines.join("") });
}
