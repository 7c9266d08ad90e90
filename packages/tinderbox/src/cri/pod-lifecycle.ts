/** RunPodSandbox, StopPodSandbox, RemovePodSandbox, UpdatePodSandboxResources. */
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { idOf } from "./field-checks.ts";
import { parsePodConfig } from "./parse-pod-config.ts";
import { parsePodResources } from "./parse-resources.ts";

/** The calls that make and end pods. */
export function podLifecycleCalls({ engine }: CriContext): RuntimeCalls {
  return {
    runPodSandbox: async ({ config, runtimeHandler }, { signal }) => ({
      podSandboxId: (await engine.runPod(parsePodConfig(config), runtimeHandler, signal)).id,
    }),
    stopPodSandbox: async ({ podSandboxId }) => {
      await engine.stopPod(idOf("pod_sandbox_id", podSandboxId));
      return {};
    },
    removePodSandbox: async ({ podSandboxId }) => {
      await engine.removePod(idOf("pod_sandbox_id", podSandboxId));
      return {};
    },
    updatePodSandboxResources: async ({ podSandboxId, resources, overhead }) => {
      engine.updatePodResources(
        idOf("pod_sandbox_id", podSandboxId),
        parsePodResources("resources", resources),
        parsePodResources("overhead", overhead),
      );
      return {};
    },
  };
}
