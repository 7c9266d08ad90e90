/** PodSandboxStatus, ListPodSandbox, StreamPodSandboxes. */
import type { Container, Pod } from "../engine/contract.ts";
import { encode, encodedList, encodedOnce, joined } from "../rpc/encoded.ts";
import {
  ListPodSandboxResponseSchema,
  type PodSandboxFilter,
  PodSandboxState,
  PodSandboxStatusResponseSchema,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { inChunks } from "./chunks.ts";
import { containerStatusToCri } from "./container-to-cri.ts";
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { idOf } from "./field-checks.ts";
import { hasLabels, matchesId } from "./label-filter.ts";
import { podStatusToCri, podToCri } from "./pod-to-cri.ts";
import { verboseInfo } from "./verbose-info.ts";

function matches(pod: Pod, filter: PodSandboxFilter | undefined): boolean {
  const state = pod.state === "ready" ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
  return (
    matchesId(pod.id, filter?.id) &&
    (filter?.state === undefined || filter.state.state === state) &&
    hasLabels(pod.config.labels, filter?.labelSelector)
  );
}

// A pod's change, and a container's, is another object.
const podPart = encodedOnce(PodSandboxStatusResponseSchema, (pod: Pod) => ({ status: podStatusToCri(pod) }));
const containerPart = encodedOnce(PodSandboxStatusResponseSchema, (container: Container) => ({
  containersStatuses: [containerStatusToCri(container)],
}));
const listPart = encodedOnce(ListPodSandboxResponseSchema, (pod: Pod) => ({ items: [podToCri(pod)] }));

/** The calls that look at pods. */
export function podQueryCalls({ engine }: CriContext): RuntimeCalls {
  const select = (filter: PodSandboxFilter | undefined) =>
    engine.pods().filter((pod) => matches(pod, filter));
  const answer = encodedList(listPart);
  return {
    podSandboxStatus: async ({ podSandboxId, verbose }) => {
      const pod = engine.pod(idOf("pod_sandbox_id", podSandboxId));
      const containers = engine.containers().filter(({ podId }) => podId === pod.id);
      const now = encode(PodSandboxStatusResponseSchema, {
        timestamp: BigInt(Date.now()) * 1_000_000n,
        info: verboseInfo(verbose, { runtimeHandler: pod.handler, config: pod.config }),
      });
      return joined([podPart(pod), ...containers.map(containerPart), now]);
    },
    listPodSandbox: async ({ filter }) => answer(select(filter)),
    async *streamPodSandboxes({ filter }) {
      for (const podSandboxes of inChunks(select(filter).map(podToCri))) yield { podSandboxes };
    },
  };
}
