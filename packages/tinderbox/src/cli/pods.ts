/** `tinderbox pods`, `stop` and `rm`. */
import { TinderboxError } from "../base/errors.ts";
import { PodSandboxState } from "../rpc/gen/runtime/v1/api_pb.ts";
import { type CriClients, type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { formatAge, formatTable, nowNs, printJson, shortId } from "./output.ts";

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

/** The one pod whose id begins with `text`. */
async function findPod({ runtime }: CriClients, text: string): Promise<string> {
  const { items } = await runtime.callUnary("listPodSandbox", {});
  const found = items.filter((pod) => pod.id.startsWith(text) || pod.metadata?.name === text);
  if (found.length === 1 && found[0] !== undefined) return found[0].id;
  const why = found.length === 0 ? "no such pod" : `${found.length} pods fit`;
  throw new TinderboxError(
    found.length === 0 ? "NOT_FOUND" : "INVALID",
    `pod ${JSON.stringify(text)}: ${why}`,
    {
      hint: "tinderbox pods lists them",
    },
  );
}

async function each(
  options: GlobalOptions,
  pods: readonly string[],
  work: (clients: CriClients, id: string) => Promise<unknown>,
): Promise<void> {
  await withDaemon(options, async (clients) => {
    const ids: string[] = [];
    for (const pod of pods) {
      const id = await findPod(clients, pod);
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

export async function removePods(options: GlobalOptions, pods: readonly string[]): Promise<void> {
  await each(options, pods, ({ runtime }, podSandboxId) =>
    runtime.callUnary("removePodSandbox", { podSandboxId }),
  );
}
