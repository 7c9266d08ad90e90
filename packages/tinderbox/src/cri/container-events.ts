/** GetContainerEvents: what happens from now on. A client too slow for it loses the stream, never an event unnoticed. */
import { TinderboxError } from "../base/errors.ts";
import type { EngineEvent } from "../engine/contract.ts";
import { ContainerEventType } from "../rpc/gen/runtime/v1/api_pb.ts";
import { containerStatusToCri } from "./container-to-cri.ts";
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { podStatusToCri } from "./pod-to-cri.ts";

const maxWaiting = 1000;

const kinds = {
  created: ContainerEventType.CONTAINER_CREATED_EVENT,
  started: ContainerEventType.CONTAINER_STARTED_EVENT,
  stopped: ContainerEventType.CONTAINER_STOPPED_EVENT,
  deleted: ContainerEventType.CONTAINER_DELETED_EVENT,
} as const;

/** The engine's events of one subscriber, in order. */
async function* subscription(context: CriContext, signal: AbortSignal): AsyncGenerator<EngineEvent> {
  const waiting: EngineEvent[] = [];
  let wake = (): void => {};
  const unsubscribe = context.engine.subscribe((event) => {
    waiting.push(event);
    wake();
  });
  const onAbort = (): void => wake();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    while (!signal.aborted) {
      if (waiting.length > maxWaiting) {
        throw new TinderboxError("LIMIT", `${waiting.length} events wait, at most ${maxWaiting} may`, {
          hint: "list the containers and subscribe again",
        });
      }
      const event = waiting.shift();
      if (event !== undefined) yield event;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    unsubscribe();
    signal.removeEventListener("abort", onAbort);
  }
}

/** GetContainerEvents. */
export function containerEventCalls(context: CriContext): RuntimeCalls {
  const { engine } = context;
  return {
    async *getContainerEvents(_, { signal }) {
      for await (const { containerId, podId, kind, atNs } of subscription(context, signal)) {
        const pod = engine.pods().find(({ id }) => id === podId);
        yield {
          containerId,
          containerEventType: kinds[kind],
          createdAt: atNs,
          // Gone when the event tells of the pod's own removal
          ...(pod === undefined ? {} : { podSandboxStatus: podStatusToCri(pod) }),
          containersStatuses: engine
            .containers()
            .filter((container) => container.podId === podId)
            .map(containerStatusToCri),
        };
      }
    },
  };
}
