/** CreateContainer, StartContainer, StopContainer, RemoveContainer, UpdateContainerResources, ReopenContainerLog. */
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { absolutePath, idOf, integer, refuse, required } from "./field-checks.ts";
import { parseContainerConfig } from "./parse-container-config.ts";
import { parseResources } from "./parse-resources.ts";

/** Timers of Node end at 2^31-1 ms; a longer grace is as good as this one. */
const maxTimeoutSeconds = 2_000_000;

/** A kubelet's limit for a call that has none of its own */
const defaultCheckpointSeconds = 120;

/** The calls that make, change and end containers. */
export function containerLifecycleCalls({ engine }: CriContext): RuntimeCalls {
  return {
    createContainer: async ({ podSandboxId, config }, { signal }) => {
      const pod = engine.pod(idOf("pod_sandbox_id", podSandboxId));
      const handlers = engine.handlers.map(({ name }) => name);
      const parsed = parseContainerConfig(config, pod.config, handlers);
      return { containerId: (await engine.createContainer(pod.id, parsed, signal)).id };
    },
    startContainer: async ({ containerId }, { signal }) => {
      await engine.startContainer(idOf("container_id", containerId), signal);
      return {};
    },
    stopContainer: async ({ containerId, timeout }) => {
      const seconds = Math.min(integer("timeout", timeout, 0), maxTimeoutSeconds);
      await engine.stopContainer(idOf("container_id", containerId), seconds * 1000);
      return {};
    },
    removeContainer: async ({ containerId }) => {
      await engine.removeContainer(idOf("container_id", containerId));
      return {};
    },
    updateContainerResources: async ({ containerId, linux, windows }) => {
      refuse(windows !== undefined, "windows", "set", "this is a Linux node");
      const resources = parseResources("linux", required("linux", linux));
      await engine.updateResources(idOf("container_id", containerId), resources);
      return {};
    },
    checkpointContainer: async ({ containerId, location, timeout }, { signal }) => {
      const seconds = Math.min(integer("timeout", timeout, 0), maxTimeoutSeconds);
      await engine.checkpointContainer(
        idOf("container_id", containerId),
        absolutePath("location", location),
        (seconds || defaultCheckpointSeconds) * 1000,
        signal,
      );
      return {};
    },
    reopenContainerLog: async ({ containerId }) => {
      await engine.reopenLog(idOf("container_id", containerId));
      return {};
    },
  };
}
