/** Namespace options of CRI, whose enum starts with POD: an unset message means POD everywhere. */
import type { IdMapping, IdMaps } from "../network/contract.ts";
import type {
  NamespaceOption,
  UserNamespace,
  IDMapping as WireMapping,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { NamespaceMode } from "../rpc/gen/runtime/v1/api_pb.ts";
import { choice, integer, invalid } from "./field-checks.ts";

const words = {
  network: { [NamespaceMode.POD]: "pod", [NamespaceMode.NODE]: "node" },
  ipc: { [NamespaceMode.POD]: "pod", [NamespaceMode.NODE]: "node" },
  pid: {
    [NamespaceMode.POD]: "pod",
    [NamespaceMode.CONTAINER]: "container",
    [NamespaceMode.NODE]: "node",
    [NamespaceMode.TARGET]: "target",
  },
} as const;

export type ParsedNamespaces = {
  readonly network: "pod" | "node";
  readonly ipc: "pod" | "node";
  readonly pid: "pod" | "container" | "node" | "target";
  readonly targetId: string;
  readonly user: IdMaps | undefined;
};

const maxId = 0xffff_ffff;
/** Lines of a map that a kernel takes: user_namespaces(7) */
const maxMappings = 340;

/** Mappings of a user namespace or of a mount; none has an id of another. */
export function parseMappings(path: string, mappings: readonly WireMapping[]): readonly IdMapping[] {
  if (mappings.length > maxMappings) throw invalid(path, mappings.length, `at most ${maxMappings} mappings`);
  const parsed = mappings.map(({ containerId, hostId, length }, n): IdMapping => {
    const at = `${path}[${n}]`;
    return {
      inside: integer(`${at}.container_id`, containerId, 0, maxId - 1),
      outside: integer(`${at}.host_id`, hostId, 0, maxId - 1),
      length: integer(`${at}.length`, length, 1, maxId - Math.max(hostId, containerId)),
    };
  });
  for (const side of ["inside", "outside"] as const) {
    const sorted = parsed.toSorted((a, b) => a[side] - b[side]);
    const twice = sorted.find(
      (one, n) => n > 0 && one[side] < (sorted[n - 1]?.[side] ?? 0) + (sorted[n - 1]?.length ?? 0),
    );
    if (twice) throw invalid(path, twice[side], "ids that no other of the mappings has");
  }
  return parsed;
}

function parseUserNamespace(path: string, options: UserNamespace | undefined): IdMaps | undefined {
  if (options === undefined) return undefined;
  const { mode } = options;
  if (mode === NamespaceMode.NODE) {
    if (options.uids.length + options.gids.length > 0)
      throw invalid(`${path}.uids`, options.uids.length, "no mappings when mode is NODE");
    return undefined;
  }
  if (mode !== NamespaceMode.POD) throw invalid(`${path}.mode`, mode, "0 (POD) or 2 (NODE)");
  const map = (name: "uids" | "gids"): readonly IdMapping[] => {
    const parsed = parseMappings(`${path}.${name}`, options[name]);
    const [only] = parsed;
    if (parsed.length !== 1 || only?.inside !== 0)
      throw invalid(`${path}.${name}`, parsed.length, "exactly one mapping, which begins at container_id 0");
    return parsed;
  };
  return { uids: map("uids"), gids: map("gids") };
}

/** Reads the options at `path`. */
export function parseNamespaces(path: string, options: NamespaceOption | undefined): ParsedNamespaces {
  if (options && options.targetId !== "" && options.pid !== NamespaceMode.TARGET)
    throw invalid(`${path}.target_id`, options.targetId, "empty unless pid is 3 (TARGET)");
  return {
    network: choice(`${path}.network`, options?.network ?? 0, words.network),
    ipc: choice(`${path}.ipc`, options?.ipc ?? 0, words.ipc),
    pid: choice(`${path}.pid`, options?.pid ?? 0, words.pid),
    targetId: options?.targetId ?? "",
    user: parseUserNamespace(`${path}.userns_options`, options?.usernsOptions),
  };
}

const numbers = {
  pod: NamespaceMode.POD,
  container: NamespaceMode.CONTAINER,
  node: NamespaceMode.NODE,
  target: NamespaceMode.TARGET,
} as const;

/** Our word as CRI's number. */
export function namespaceNumber(word: keyof typeof numbers): NamespaceMode {
  return numbers[word];
}
