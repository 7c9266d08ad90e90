/** Exec, Attach and PortForward: they check what is asked and hand out a single-use URL. */
import { TinderboxError } from "../base/errors.ts";
import type { Container } from "../engine/contract.ts";
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { commandOf } from "./exec-sync.ts";
import { idOf, integer, invalid } from "./field-checks.ts";

type Wanted = {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
};

function streamsOf({ stdin, stdout, stderr, tty }: Wanted): Wanted {
  if (tty && stderr) throw invalid("stderr", stderr, "false with tty, whose output is all on stdout");
  if (!stdin && !stdout && !stderr)
    throw invalid("stdin, stdout, stderr", false, "at least one must be true");
  return { stdin, stdout, stderr, tty };
}

function runningOf(container: Container): Container {
  if (container.phase.kind === "running") return container;
  throw new TinderboxError(
    "WRONG_STATE",
    `container ${container.id} is ${container.phase.kind}: only a running one has streams`,
  );
}

/** The calls that answer with a URL. */
export function streamUrlCalls({ engine, streaming }: CriContext): RuntimeCalls {
  return {
    exec: async (request) => {
      const session = streamsOf(request);
      const command = commandOf(request.cmd);
      const container = runningOf(engine.container(idOf("container_id", request.containerId)));
      return { url: streaming.execUrl({ ...session, command, containerId: container.id }) };
    },
    attach: async (request) => {
      const session = streamsOf(request);
      const found = engine.container(idOf("container_id", request.containerId));
      const container = found.phase.kind === "created" ? found : runningOf(found);
      return { url: streaming.attachUrl({ ...session, containerId: container.id }) };
    },
    portForward: async ({ podSandboxId, port }) => {
      port.forEach((one, n) => void integer(`port[${n}]`, one, 1, 65535));
      const pod = engine.pod(idOf("pod_sandbox_id", podSandboxId));
      if (pod.state !== "ready")
        throw new TinderboxError("WRONG_STATE", `pod ${pod.id} is not ready: no port can be reached`);
      return { url: streaming.portForwardUrl({ podId: pod.id }) };
    },
  };
}
