/** `tinderbox inspect`: all that the daemon knows of a container, a pod or an image, as JSON. */
import { toJson } from "@bufbuild/protobuf";
import { TinderboxError } from "../base/errors.ts";
import {
  ContainerStatusResponseSchema,
  ImageStatusResponseSchema,
  PodSandboxStatusResponseSchema,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { type CriClients, type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { findContainer, findPod } from "./find.ts";
import { printJson } from "./output.ts";

async function look(clients: CriClients, text: string): Promise<unknown> {
  const { runtime, images } = clients;
  const absent = (cause: unknown): undefined => {
    if (cause instanceof TinderboxError && cause.code === "NOT_FOUND") return undefined;
    throw cause;
  };
  const pod = await findPod(clients, text).catch(absent);
  if (pod !== undefined) {
    const answer = await runtime.callUnary("podSandboxStatus", { podSandboxId: pod.id, verbose: true });
    return toJson(PodSandboxStatusResponseSchema, answer);
  }
  const container = await findContainer(clients, text).catch(absent);
  if (container !== undefined) {
    const answer = await runtime.callUnary("containerStatus", { containerId: container.id, verbose: true });
    return toJson(ContainerStatusResponseSchema, answer);
  }
  const answer = await images.callUnary("imageStatus", { image: { image: text }, verbose: true });
  if (answer.image !== undefined) return toJson(ImageStatusResponseSchema, answer);
  throw new TinderboxError(
    "NOT_FOUND",
    `${JSON.stringify(text)}: no pod, container or image has this id or name`,
    {
      hint: "tinderbox pods, ps --all and images list them",
    },
  );
}

export async function inspect(globals: GlobalOptions, what: readonly string[]): Promise<void> {
  const found = await withDaemon(globals, async (clients) => {
    const all: unknown[] = [];
    for (const one of what) all.push(await look(clients, one));
    return all;
  });
  printJson(found.length === 1 ? found[0] : found);
}
