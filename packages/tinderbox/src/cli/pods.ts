/** `tinderbox pods`, `stop` and `rm`. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { PodSandboxState } from "../rpc/gen/runtime/v1/api_pb.ts";
import { type CriClients, type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { findPod } from "./find.ts";
import { formatAge, formatTable, nowNs, printJson, shortId } from "./output.ts";
import { logRoot } from "./pod-request.ts";

export async function listPods(options: GlobalOptions): Promise<void> {
  const { items } = await withDaemon(options, ({ runtime }) => runtime.callUnary("listPodSandbox", {}));
  const pods = items.map((pod) => ({
    id: pod.id,
    name: pod.metadata?.name ?? "",
    namespace: pod.metadata?.namespace ?? "",
    handler: pod.runtimeHandler,
    state: pod.state === PodSandboxState.SANDBOX_READY ? "ready" : "not ready",
    createdAtNs: pod.createdAt.toString(),
  }));
  if (options.json) return printJson(pods);
  const rows = pods.map((pod) => [
    shortId(pod.id),
    pod.name,
    pod.namespace,
    pod.handler,
    pod.state,
    formatAge(BigInt(pod.createdAtNs), nowNs()),
  ]);
  process.stdout.write(formatTable(["POD", "NAME", "NAMESPACE", "HANDLER", "STATE", "CREATED"], rows));
}

async function each(
  options: GlobalOptions,
  pods: readonly string[],
  work: (clients: CriClients, id: string) => Promise<unknown>,
): Promise<void> {
  await withDaemon(options, async (clients) => {
    const ids: string[] = [];
    for (const pod of pods) {
      const { id } = await findPod(clients, pod);
      await work(clients, id);
      ids.push(id);
      if (!options.json) process.stdout.write(`${id}\n`);
    }
    if (options.json) printJson(ids);
  });
}

export async function stopPods(options: GlobalOptions, pods: readonly string[]): Promise<void> {
  await each(options, pods, ({ runtime }, podSandboxId) =>
    runtime.callUnary("stopPodSandbox", { podSandboxId }),
  );
}

/** Removes the logs that `tinderbox run -d` keeps for a pod, once the pod is gone. */
async function removeLogs(name: string, uid: string): Promise<void> {
  await rm(join(logRoot, `${name}_${uid}`), { recursive: true, force: true });
}

export async function removePods(options: GlobalOptions, pods: readonly string[]): Promise<void> {
  await each(options, pods, async ({ runtime }, podSandboxId) => {
    const { status } = await runtime.callUnary("podSandboxStatus", { podSandboxId });
    await runtime.callUnary("removePodSandbox", { podSandboxId });
    const { name, uid } = status?.metadata ?? { name: "", uid: "" };
    // Both are parts of a path: of a pod of another client they may be anything.
    if (/^[\w.-]+$/.test(name) && /^[\w-]+$/.test(uid)) await removeLogs(name, uid);
  });
}
