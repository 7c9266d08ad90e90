/** `tinderbox run`: one container in a pod of its own, as `docker run` has it; its exit status is ours. */
import { performance } from "node:perf_hooks";
import { TinderboxError } from "../base/errors.ts";
import { parseLocalSource } from "../image/local-source.ts";
import { ContainerEventType, ContainerState } from "../rpc/gen/runtime/v1/api_pb.ts";
import { type CriClients, type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { bringImage } from "./images.ts";
import { printJson } from "./output.ts";
import { type PodRequest, podRequest, type RunOptions } from "./pod-request.ts";
import { isListening, withPrivateDaemon } from "./private-daemon.ts";
import { openStream, withRawTerminal } from "./stream-client.ts";

type Timing = { readonly pullMs: number; readonly podMs: number; readonly runMs: number };

function note(options: RunOptions, text: string): void {
  if (!options.quiet) process.stderr.write(`${text}\n`);
}

/** Brings the image when it has to be; the name by which the daemon has it. */
async function pullIfNeeded(
  clients: CriClients,
  image: string,
  options: RunOptions,
  signal: AbortSignal,
): Promise<string> {
  const policy = options.pull;
  if (policy !== "missing" && policy !== "always" && policy !== "never")
    throw new TinderboxError("INVALID", `--pull ${policy}: missing, always or never`);
  const isLocal = parseLocalSource(image) !== undefined;
  if (isLocal && policy === "never")
    throw new TinderboxError("INVALID", `--pull never: ${image} is read from its files each time`);
  if (policy !== "always" && !isLocal) {
    const { image: present } = await clients.images.callUnary(
      "imageStatus",
      { image: { image } },
      { signal },
    );
    if (present !== undefined) return image;
    if (policy === "never")
      throw new TinderboxError("NOT_FOUND", `image ${image} is not on this node`, {
        hint: `tinderbox pull ${image}`,
      });
  }
  note(options, `pulling ${image}`);
  const id = await bringImage(clients, image, { signal });
  return isLocal ? id : image;
}

/** The exit codes of containers that stop from now on. */
function exitsOf(clients: CriClients): Disposable & { exitOf(id: string): Promise<number> } {
  const exits = new Map<string, number>();
  const over = new AbortController();
  let wake = (): void => {};
  let failure: unknown;
  const follow = async (): Promise<void> => {
    const events = clients.runtime.callStream("getContainerEvents", {}, { signal: over.signal });
    for await (const event of events) {
      if (event.containerEventType !== ContainerEventType.CONTAINER_STOPPED_EVENT) continue;
      const status = event.containersStatuses.find(({ id }) => id === event.containerId);
      exits.set(event.containerId, status?.exitCode ?? 255);
      wake();
    }
    throw new TinderboxError("UNAVAILABLE", "the daemon has ended");
  };
  follow().catch((cause: unknown) => {
    failure = cause;
    wake();
  });
  return {
    async exitOf(id) {
      for (;;) {
        const code = exits.get(id);
        if (code !== undefined) return code;
        if (failure !== undefined) throw failure;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    [Symbol.dispose]: () => over.abort(),
  };
}

/** From the pod's start to the container's end. */
async function runInPod(
  clients: CriClients,
  request: PodRequest,
  podSandboxId: string,
  options: RunOptions,
  signal: AbortSignal,
): Promise<number> {
  const { runtime } = clients;
  const { containerId } = await runtime.callUnary(
    "createContainer",
    { podSandboxId, config: request.container, sandboxConfig: request.pod },
    { signal },
  );
  const { tty, interactive } = options;
  const { url } = await runtime.callUnary(
    "attach",
    { containerId, stdin: interactive, stdout: true, stderr: !tty, tty },
    { signal },
  );
  using subscription = exitsOf(clients);
  return await withRawTerminal(tty && interactive, async () => {
    const stream = await openStream(url, {
      stdin: interactive ? process.stdin : undefined,
      stdout: process.stdout,
      stderr: process.stderr,
      terminal: tty ? process.stdout : undefined,
      signal,
    });
    await runtime.callUnary("startContainer", { containerId }, { signal });
    await stream.ended;
    const { status } = await runtime.callUnary("containerStatus", { containerId }, { signal });
    // Its output may end before it does.
    return status?.state === ContainerState.CONTAINER_EXITED
      ? status.exitCode
      : await subscription.exitOf(containerId);
  });
}

async function runWith(
  clients: CriClients,
  image: string,
  command: readonly string[],
  options: RunOptions,
  globals: GlobalOptions,
  signal: AbortSignal,
): Promise<number> {
  const began = performance.now();
  const request = podRequest(await pullIfNeeded(clients, image, options, signal), command, options);
  const pulled = performance.now();
  const { podSandboxId } = await clients.runtime.callUnary(
    "runPodSandbox",
    { config: request.pod, runtimeHandler: options.runtime ?? "" },
    { signal },
  );
  const booted = performance.now();
  let stays = false;
  try {
    if (options.detach) {
      const { containerId } = await clients.runtime.callUnary(
        "createContainer",
        { podSandboxId, config: request.container, sandboxConfig: request.pod },
        { signal },
      );
      await clients.runtime.callUnary("startContainer", { containerId }, { signal });
      stays = true;
      if (globals.json) printJson({ pod: podSandboxId, container: containerId, name: request.name });
      else process.stdout.write(`${request.name}\n`);
      return 0;
    }
    const code = await runInPod(clients, request, podSandboxId, options, signal);
    const timing: Timing = {
      pullMs: Math.round(pulled - began),
      podMs: Math.round(booted - pulled),
      runMs: Math.round(performance.now() - booted),
    };
    if (options.timing) {
      const total = timing.pullMs + timing.podMs + timing.runMs;
      process.stderr.write(
        `took ${total} ms: image ${timing.pullMs}, pod ready ${timing.podMs}, container ${timing.runMs}; exit status ${code}\n`,
      );
    }
    return code;
  } finally {
    // Never by the signal that ended us: the pod has to go in any case. With grace 0 for what still runs.
    if (!stays) await clients.runtime.callUnary("removePodSandbox", { podSandboxId });
  }
}

/** Runs and sets the exit status. Ctrl-C and SIGTERM end the container and remove its pod. */
export async function run(
  globals: GlobalOptions,
  image: string,
  command: readonly string[],
  options: RunOptions,
): Promise<void> {
  if (options.detach && (options.tty || options.interactive))
    throw new TinderboxError("INVALID", "--detach: cannot be used with --tty or --interactive");
  // What is wrong with the flags is said before anything is started.
  podRequest(image, command, options);
  const stop = new AbortController();
  let endedBy: NodeJS.Signals | undefined;
  const onSignal = (name: NodeJS.Signals): void => {
    endedBy ??= name;
    stop.abort();
  };
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(name, onSignal);
  const withSocket = (socket: string): Promise<number> =>
    withDaemon({ ...globals, socket }, (clients) =>
      runWith(clients, image, command, options, globals, stop.signal),
    );
  try {
    if (await isListening(globals.socket)) process.exitCode = await withSocket(globals.socket);
    else if (options.detach) {
      throw new TinderboxError(
        "UNAVAILABLE",
        `no daemon listens on ${globals.socket}, and --detach needs one`,
        {
          hint: "start one: tinderboxd",
        },
      );
    } else {
      note(options, `no daemon listens on ${globals.socket}: starting one for this command`);
      process.exitCode = await withPrivateDaemon(withSocket);
    }
  } catch (cause) {
    if (endedBy === undefined) throw cause;
    process.exitCode = endedBy === "SIGINT" ? 130 : endedBy === "SIGTERM" ? 143 : 129;
  }
}
