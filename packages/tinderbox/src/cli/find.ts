/** Containers and pods by what a person types: an id, a unique beginning of one, or a name. */
import { TinderboxError } from "../base/errors.ts";
import type { Container, PodSandbox } from "../rpc/gen/runtime/v1/api_pb.ts";
import type { CriClients } from "./cri-clients.ts";

function only<T>(what: string, text: string, found: readonly T[]): T {
  const [first] = found;
  if (found.length === 1 && first !== undefined) return first;
  throw new TinderboxError(
    found.length === 0 ? "NOT_FOUND" : "INVALID",
    `${what} ${JSON.stringify(text)}: ${found.length === 0 ? "there is none" : `${found.length} fit`}`,
    { hint: what === "pod" ? "tinderbox pods lists them" : "tinderbox ps --all lists them" },
  );
}

/** The one pod that `text` means. @throws NOT_FOUND, or INVALID when several fit */
export async function findPod({ runtime }: CriClients, text: string): Promise<PodSandbox> {
  const { items } = await runtime.callUnary("listPodSandbox", {});
  const named = items.filter((pod) => pod.id === text || pod.metadata?.name === text);
  return only("pod", text, named.length > 0 ? named : items.filter((pod) => pod.id.startsWith(text)));
}

/** The one container that `text` means; the name of a pod with one container means that. */
export async function findContainer({ runtime }: CriClients, text: string): Promise<Container> {
  const [{ containers }, { items: pods }] = await Promise.all([
    runtime.callUnary("listContainers", {}),
    runtime.callUnary("listPodSandbox", {}),
  ]);
  const named = containers.filter(({ id, metadata }) => id === text || metadata?.name === text);
  if (named.length > 0) return only("container", text, named);
  const begun = containers.filter(({ id }) => id.startsWith(text));
  if (begun.length > 0) return only("container", text, begun);
  const podIds = new Set(
    pods.filter(({ id, metadata }) => metadata?.name === text || id.startsWith(text)).map(({ id }) => id),
  );
  return only(
    "container",
    text,
    containers.filter(({ podSandboxId }) => podIds.has(podSandboxId)),
  );
}
