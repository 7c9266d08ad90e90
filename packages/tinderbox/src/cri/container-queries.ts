/** ContainerStatus, ListContainers, StreamContainers. */
import type { Container } from "../engine/contract.ts";
import { encode, encodedList, encodedOnce, joined } from "../rpc/encoded.ts";
import {
  type ContainerFilter,
  ContainerState,
  ContainerStatusResponseSchema,
  ListContainersResponseSchema,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { inChunks } from "./chunks.ts";
import { containerStatusToCri, containerToCri } from "./container-to-cri.ts";
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { idOf } from "./field-checks.ts";
import { hasLabels, matchesId } from "./label-filter.ts";
import { verboseInfo } from "./verbose-info.ts";

const states = {
  created: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_EXITED,
} as const;

function matches(container: Container, filter: ContainerFilter | undefined): boolean {
  return (
    matchesId(container.id, filter?.id) &&
    matchesId(container.podId, filter?.podSandboxId) &&
    (filter?.state === undefined || filter.state.state === states[container.phase.kind]) &&
    hasLabels(container.config.labels, filter?.labelSelector)
  );
}

// A container's change is another object.
const statusPart = encodedOnce(ContainerStatusResponseSchema, (container: Container) => ({
  status: containerStatusToCri(container),
}));
const listPart = encodedOnce(ListContainersResponseSchema, (container: Container) => ({
  containers: [containerToCri(container)],
}));

/** The calls that look at containers. */
export function containerQueryCalls({ engine }: CriContext): RuntimeCalls {
  const select = (filter: ContainerFilter | undefined) =>
    engine.containers().filter((container) => matches(container, filter));
  const answer = encodedList(listPart);
  return {
    containerStatus: async ({ containerId, verbose }) => {
      const container = engine.container(idOf("container_id", containerId));
      const pid = verbose ? await engine.containerPid(container.id) : 0;
      const info = verboseInfo(verbose, { sandboxID: container.podId, pid, config: container.config });
      return joined([statusPart(container), encode(ContainerStatusResponseSchema, { info })]);
    },
    listContainers: async ({ filter }) => answer(select(filter)),
    async *streamContainers({ filter }) {
      for (const containers of inChunks(select(filter).map(containerToCri))) yield { containers };
    },
  };
}
