/** What is taken from a plugin's result: addresses and name servers that are such, and not many. */
import { isIP } from "node:net";
import { isObject, type JsonObject } from "./cni-config.ts";
import type { PodNetwork } from "./contract.ts";

const maxEntries = 64;

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value.slice(0, maxEntries) : [];
}

/** The pod's addresses, primary first, without prefix length; those of the result's other interfaces are not the pod's. */
export function ipsOf(result: JsonObject): readonly string[] {
  const interfaces = listOf(result["interfaces"]);
  return listOf(result["ips"])
    .filter(isObject)
    .filter(({ interface: index }) => {
      const owner = typeof index === "number" ? interfaces[index] : undefined;
      return !isObject(owner) || (typeof owner["sandbox"] === "string" && owner["sandbox"] !== "");
    })
    .flatMap(({ address }) => (typeof address === "string" ? [address.replace(/\/.*/, "")] : []))
    .filter((address) => isIP(address) !== 0);
}

/** Lines for the pod's resolv.conf: each entry is one word. */
export function dnsOf(result: JsonObject): PodNetwork["dns"] {
  const dns = isObject(result["dns"]) ? result["dns"] : {};
  const words = (key: string): readonly string[] =>
    listOf(dns[key]).filter((one) => typeof one === "string" && /^[\w.:%-]{1,255}$/.test(one)) as string[];
  const search = words("search");
  const domain = typeof dns["domain"] === "string" && search.length === 0 ? [dns["domain"]] : [];
  return {
    nameservers: words("nameservers"),
    search: [...search, ...domain.filter((one) => /^[\w.-]{1,255}$/.test(one))],
    options: words("options"),
  };
}
