/** `tinderbox status`: the daemon as an operator sees it. Exit status 1 when it cannot take pods. */
import { styleText } from "node:util";
import { ContainerState, PodSandboxState } from "../rpc/gen/runtime/v1/api_pb.ts";
import { type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { formatBytes, printJson } from "./output.ts";

const stateNames: Readonly<Record<number, string>> = {
  [ContainerState.CONTAINER_CREATED]: "created",
  [ContainerState.CONTAINER_RUNNING]: "running",
  [ContainerState.CONTAINER_EXITED]: "exited",
};

function counted(names: readonly string[]): Readonly<Record<string, number>> {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return Object.fromEntries(counts);
}

async function look(options: GlobalOptions) {
  return withDaemon(options, async ({ runtime, images }) => {
    const [version, status, pods, containers, imageList, store] = await Promise.all([
      runtime.callUnary("version", {}),
      runtime.callUnary("status", { verbose: true }),
      runtime.callUnary("listPodSandbox", {}),
      runtime.callUnary("listContainers", {}),
      images.callUnary("listImages", {}),
      images.callUnary("imageFsInfo", {}),
    ]);
    const isReady = (state: PodSandboxState): boolean => state === PodSandboxState.SANDBOX_READY;
    return {
      daemon: version.runtimeVersion,
      socket: options.socket,
      conditions: (status.status?.conditions ?? []).map(({ type, status: isTrue, message }) => ({
        type,
        isTrue,
        message,
      })),
      handlers: status.runtimeHandlers.map(({ name }) => name).filter((name) => name !== ""),
      pods: counted(
        pods.items.map(
          ({ runtimeHandler, state }) => `${runtimeHandler} ${isReady(state) ? "ready" : "not ready"}`,
        ),
      ),
      containers: counted(containers.containers.map(({ state }) => stateNames[state] ?? "unknown")),
      images: imageList.images.length,
      imageBytes: String(store.imageFilesystems[0]?.usedBytes?.value ?? 0n),
      imageDirectory: store.imageFilesystems[0]?.fsId?.mountpoint ?? "",
    };
  });
}

function shown(counts: Readonly<Record<string, number>>): string {
  const parts = Object.entries(counts).map(([name, count]) => `${count} ${name}`);
  return parts.length === 0 ? "none" : parts.join(", ");
}

/** Prints it, as text or JSON. */
export async function status(options: GlobalOptions): Promise<void> {
  const found = await look(options);
  if (found.conditions.some(({ isTrue }) => !isTrue)) process.exitCode = 1;
  if (options.json) return printJson(found);
  const hasColour = process.stdout.isTTY && !process.env["NO_COLOR"];
  const paint = (colour: "green" | "red", text: string): string =>
    hasColour ? styleText(colour, text) : text;
  const rows = [
    ["daemon", `${found.daemon} on ${found.socket}`],
    ...found.conditions.map(({ type, isTrue, message }) => [
      type,
      [isTrue ? paint("green", "yes") : paint("red", "no"), message].filter((word) => word !== "").join("  "),
    ]),
    ["handlers", found.handlers.join(", ")],
    ["pods", shown(found.pods)],
    ["containers", shown(found.containers)],
    ["images", `${found.images}, ${formatBytes(BigInt(found.imageBytes))} in ${found.imageDirectory}`],
  ];
  for (const [name = "", value = ""] of rows) process.stdout.write(`${name.padEnd(14)}${value}\n`);
}
