/** PodSandboxStatus, ListPodSandbox, StreamPodSandboxes. */
import type { Pod } from "../engine/contract.ts";
import { assemble, encodedList } from "../rpc/encoded.ts";
import {
  ListPodSandboxResponseSchema,
  type PodSandboxFilter,
  PodSandboxState,
  PodSandboxStatusResponseSchema,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { inChunks } from "./chunks.ts";
import { encodedContainerStatus } from "./container-to-cri.ts";
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { idOf } from "./field-checks.ts";
import { hasLabels, matchesId } from "./label-filter.ts";
import { encodedPod, encodedPodStatus, podToCri } from "./pod-to-cri.ts";
import { verboseInfo } from "./verbose-info.ts";

function matches(pod: Pod, filter: PodSandboxFilter | undefined): boolean {
  const state = pod.state === "ready" ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
  return (
    matchesId(pod.id, filter?.id) &&
    (filter?.state === undefined || filter.state.state === state) &&
    hasLabels(pod.config.labels, filter?.labelSelector)
  );
}

/** The calls that look at pods. */
export function podQueryCalls({ engine }: CriContext): RuntimeCalls {
  const select = (filter: PodSandboxFilter | undefined) =>
    engine.pods().filter((pod) => matches(pod, filter));
  const answer = encodedList(ListPodSandboxResponseSchema, "items", encodedPod);
  return {
    podSandboxStatus: async ({ podSandboxId, verbose }) => {
      const pod = engine.pod(idOf("pod_sandbox_id", podSandboxId));
      const containers = engine.containers().filter(({ podId }) => podId === pod.id);
      return assemble(
        PodSandboxStatusResponseSchema,
        { status: [encodedPodStatus(pod)], containersStatuses: containers.map(encodedContainerStatus) },
        {
          timestamp: BigInt(Date.now()) * 1_000_000n,
          info: verboseInfo(verbose, { runtimeHandler: pod.handler, config: pod.config }),
        },
      );
    },
    listPodSandbox: async ({ filter }) => answer(select(filter)),
    async *streamPodSandboxes({ filter }) {
      for (const podSandboxes of inChunks(select(filter).map(podToCri))) yield { podSandboxes };
    },
  };
}
