/** What of a pod CNI plugins can ask for by their `capabilities`, in the words of CNI's conventions. */
import { TinderboxError } from "../base/errors.ts";
import type { JsonObject } from "./cni-config.ts";
import type { PodNetworkRequest, PortMapping } from "./contract.ts";

/** As Kubernetes has it for these annotations */
const minRate = 1e3;
const maxRate = 1e15;
/** The plugin's bounds are those of the kernel's 32-bit byte count. */
const maxBurst = 8 * (2 ** 32 - 2);
const minBurst = 1e6;

const factors: Readonly<Record<string, number>> = {
  "": 1,
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};

/** Bits per second of a quantity as Kubernetes writes them ("10M", "1.5G", "512Ki", "1e6"). */
function rateOf(annotation: string, text: string): number {
  const [, digits = "", unit = "", exponent] =
    /^(\d{1,15}(?:\.\d{0,9})?)(?:([mkMGTP]|[KMGTP]i)|[eE](\d{1,2}))?$/.exec(text) ?? [];
  const rate = Math.ceil(
    Number(digits) * (exponent === undefined ? (factors[unit] ?? 0) : 10 ** Number(exponent)),
  );
  if (digits === "" || rate < minRate || rate > maxRate)
    throw new TinderboxError(
      "INVALID",
      `annotations[${annotation}] ${JSON.stringify(text)}: bits per second from 1k to 1P, as in "10M"`,
    );
  return rate;
}

/** A second's worth may come at once. */
const burstOf = (rate: number): number => Math.min(maxBurst, Math.max(minBurst, rate));

function bandwidthOf(annotations: Readonly<Record<string, string>>): JsonObject | undefined {
  const limits = (["ingress", "egress"] as const).flatMap((direction) => {
    const annotation = `kubernetes.io/${direction}-bandwidth`;
    const text = annotations[annotation];
    if (text === undefined) return [];
    const rate = rateOf(annotation, text);
    return [
      [`${direction}Rate`, rate],
      [`${direction}Burst`, burstOf(rate)],
    ] as const;
  });
  return limits.length > 0 ? Object.fromEntries(limits) : undefined;
}

function portMappingsOf(mappings: readonly PortMapping[]): readonly JsonObject[] | undefined {
  const wanted = mappings.filter((one) => one.hostPort > 0);
  if (wanted.length === 0) return undefined;
  return wanted.map((one) => ({
    hostPort: one.hostPort,
    containerPort: one.containerPort,
    protocol: one.protocol,
    ...(one.hostIp === "" ? {} : { hostIP: one.hostIp }),
  }));
}

/** Each capability that the pod has something for. `mac`, `infinibandGUID`, `deviceID` and `aliases` are nowhere in CRI. @throws INVALID */
export function capabilityArgs(request: PodNetworkRequest): JsonObject {
  const { annotations = {}, dns, cgroupParent = "", podCidrs = [] } = request;
  const all: JsonObject = {
    portMappings: portMappingsOf(request.portMappings),
    bandwidth: bandwidthOf(annotations),
    dns,
    cgroupPath: cgroupParent === "" ? undefined : cgroupParent,
    ipRanges: podCidrs.length === 0 ? undefined : podCidrs.map((subnet) => [{ subnet }]),
    "io.kubernetes.cri.pod-annotations": Object.keys(annotations).length === 0 ? undefined : annotations,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}
