/** A pod with one container by CRI, the same requests for every daemon. */
import { randomUUID } from "node:crypto";
import { mkdirSync, statSync, watch } from "node:fs";
import { join } from "node:path";
import {
  ImageService,
  NamespaceMode,
  RuntimeService,
} from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { createGrpcClient, type GrpcClient } from "../packages/tinderbox/src/rpc/grpc-service.ts";

export type Cri = {
  readonly runtime: GrpcClient<typeof RuntimeService>;
  readonly images: GrpcClient<typeof ImageService>;
  /** Runtime handler; "" is the daemon's default */
  readonly handler: string;
};

export function connectCri(socket: string, handler: string): Cri & Disposable {
  const runtime = createGrpcClient(RuntimeService, `unix://${socket}`);
  const images = createGrpcClient(ImageService, `unix://${socket}`);
  return {
    runtime,
    images,
    handler,
    [Symbol.dispose]: () => {
      runtime.close();
      images.close();
    },
  };
}

/** A pod that is asked for step by step, so that each step can be measured. */
export class BenchPod {
  readonly #cri: Cri;
  readonly #config;
  readonly logPath: string;
  #podId = "";
  #containerId = "";

  constructor(cri: Cri, work: string) {
    this.#cri = cri;
    const uid = randomUUID();
    const logDirectory = join(work, "logs", uid);
    mkdirSync(logDirectory, { recursive: true });
    this.logPath = join(logDirectory, "out.log");
    this.#config = {
      metadata: { name: "bench", namespace: "bench", uid, attempt: 0 },
      hostname: "bench",
      logDirectory,
      linux: { cgroupParent: "", securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
    };
  }

  async run(): Promise<void> {
    const { podSandboxId } = await this.#cri.runtime.callUnary("runPodSandbox", {
      config: this.#config,
      runtimeHandler: this.#cri.handler,
    });
    this.#podId = podSandboxId;
  }

  async startContainer(image: string, command: readonly string[]): Promise<void> {
    const { containerId } = await this.#cri.runtime.callUnary("createContainer", {
      podSandboxId: this.#podId,
      config: {
        metadata: { name: "main", attempt: 0 },
        image: { image, userSpecifiedImage: image },
        command: [...command],
        logPath: "out.log",
        linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
      },
      sandboxConfig: this.#config,
    });
    this.#containerId = containerId;
    await this.#cri.runtime.callUnary("startContainer", { containerId });
  }

  async exec(command: readonly string[]): Promise<void> {
    const { exitCode } = await this.#cri.runtime.callUnary("execSync", {
      containerId: this.#containerId,
      cmd: [...command],
      timeout: 30n,
    });
    if (exitCode !== 0) throw new Error(`exec ${command.join(" ")}: exit code ${exitCode}`);
  }

  /** Until the container's log has a byte. */
  async firstOutput(): Promise<void> {
    await using stack = new AsyncDisposableStack();
    await new Promise<void>((resolve) => {
      const look = (): void => {
        if ((statSync(this.logPath, { throwIfNoEntry: false })?.size ?? 0) > 0) resolve();
      };
      const watcher = watch(join(this.logPath, ".."), look);
      stack.defer(() => watcher.close());
      look();
    });
  }

  async remove(): Promise<void> {
    if (this.#podId === "") return;
    await this.#cri.runtime.callUnary("stopPodSandbox", { podSandboxId: this.#podId });
    await this.#cri.runtime.callUnary("removePodSandbox", { podSandboxId: this.#podId });
  }
}
