/** `tinderbox ps`. */
import { ContainerState } from "../rpc/gen/runtime/v1/api_pb.ts";
import { type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { formatAge, formatTable, nowNs, printJson, shortId } from "./output.ts";

const stateNames: Readonly<Record<ContainerState, string>> = {
  [ContainerState.CONTAINER_CREATED]: "created",
  [ContainerState.CONTAINER_RUNNING]: "running",
  [ContainerState.CONTAINER_EXITED]: "exited",
  [ContainerState.CONTAINER_UNKNOWN]: "unknown",
};

export async function listContainers(options: GlobalOptions, all: boolean): Promise<void> {
  const { containers } = await withDaemon(options, ({ runtime }) => runtime.callUnary("listContainers", {}));
  const list = containers
    .filter((container) => all || container.state === ContainerState.CONTAINER_RUNNING)
    .map((container) => ({
      id: container.id,
      name: container.metadata?.name ?? "",
      podId: container.podSandboxId,
      image: container.image?.userSpecifiedImage || container.image?.image || "",
      state: stateNames[container.state] ?? "unknown",
      createdAtNs: container.createdAt.toString(),
    }));
  if (options.json) return printJson(list);
  const rows = list.map((container) => [
    shortId(container.id),
    container.name,
    shortId(container.podId),
    container.image,
    container.state,
    formatAge(BigInt(container.createdAtNs), nowNs()),
  ]);
  process.stdout.write(formatTable(["CONTAINER", "NAME", "POD", "IMAGE", "STATE", "CREATED"], rows));
}
