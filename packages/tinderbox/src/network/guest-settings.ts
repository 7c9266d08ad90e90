/** What a chain sets in a pod's network namespace that a microVM's guest must have instead: passed on, or refused. */
import { TinderboxError } from "../base/errors.ts";
import { type CniNetwork, isObject, type JsonObject } from "./cni-config.ts";

/** Of the plugin `tuning`; mtu and mac are read from the interface. */
const refusedTunings = ["promisc", "allmulti", "txQLen"] as const;
/** Of a route in a result, with the value that means nothing */
const refusedRouteKeys = ["mtu", "advmss", "priority", "table", "scope"] as const;

function refuse(network: CniNetwork, what: string, value: unknown): TinderboxError {
  return new TinderboxError(
    "CNI",
    `CNI network ${network.name}: ${what} ${JSON.stringify(value)}: a microVM's guest cannot be given it`,
    { hint: "Take it out of the CNI configuration, or run the pod by an OCI runtime's handler." },
  );
}

function sysctlsOf(tuning: JsonObject, interfaceName: string): readonly (readonly [string, string])[] {
  const sysctl = isObject(tuning["sysctl"]) ? tuning["sysctl"] : {};
  return Object.entries(sysctl).map(([key, value]) => [
    key.replaceAll("/", ".").replaceAll("IFNAME", interfaceName),
    String(value),
  ]);
}

/** The sysctls that the guest has to set. @throws CNI for a setting it cannot have */
export function guestSysctls(network: CniNetwork, interfaceName: string): Readonly<Record<string, string>> {
  const tunings = network.plugins.filter(({ type }) => type === "tuning").map(({ raw }) => raw);
  for (const tuning of tunings)
    for (const key of refusedTunings)
      if (tuning[key] !== undefined && tuning[key] !== false)
        throw refuse(network, `tuning.${key}`, tuning[key]);
  return Object.fromEntries(tunings.flatMap((tuning) => sysctlsOf(tuning, interfaceName)));
}

/** @throws CNI for a route of the result that is more than a destination and a gateway */
export function checkGuestRoutes(network: CniNetwork, result: JsonObject): void {
  const routes = Array.isArray(result["routes"]) ? result["routes"].filter(isObject) : [];
  for (const route of routes)
    for (const key of refusedRouteKeys)
      if (route[key] !== undefined && route[key] !== 0)
        throw refuse(network, `the route's ${key}`, route[key]);
}
