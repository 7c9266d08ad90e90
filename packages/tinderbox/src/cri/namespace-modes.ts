/** Namespace options of CRI, whose enum starts with POD: an unset message means POD everywhere. */
import type { NamespaceOption } from "../rpc/gen/runtime/v1/api_pb.ts";
import { NamespaceMode } from "../rpc/gen/runtime/v1/api_pb.ts";
import { choice, refuse } from "./field-checks.ts";

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
};

/** Reads the options at `path`. User namespaces are refused. */
export function parseNamespaces(path: string, options: NamespaceOption | undefined): ParsedNamespaces {
  const userns = options?.usernsOptions;
  refuse(
    userns !== undefined &&
      (userns.mode !== NamespaceMode.NODE || userns.uids.length + userns.gids.length > 0),
    `${path}.userns_options`,
    userns && { mode: userns.mode },
    "only NODE (no user namespace); a microVM handler separates users by its kernel",
  );
  return {
    network: choice(`${path}.network`, options?.network ?? 0, words.network),
    ipc: choice(`${path}.ipc`, options?.ipc ?? 0, words.ipc),
    pid: choice(`${path}.pid`, options?.pid ?? 0, words.pid),
    targetId: options?.targetId ?? "",
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
