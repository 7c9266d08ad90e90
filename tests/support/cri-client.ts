/** CRI requests with every field at hand, for tests that ask what crictl cannot. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type ContainerConfigSchema,
  ContainerState,
  type ExecSyncResponse,
  ImageService,
  type LinuxPodSandboxConfigSchema,
  NamespaceMode,
  type PodSandboxConfigSchema,
  RuntimeService,
} from "../../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { createGrpcClient, type GrpcClient } from "../../packages/tinderbox/src/rpc/grpc-client.ts";

/** Of what may stand for a message, the plain object. */
type Plain<T> = Extract<T, { $typeName?: never }>;
export type PodInit = Plain<MessageInitShape<typeof PodSandboxConfigSchema>>;
type LinuxPodInit = Plain<MessageInitShape<typeof LinuxPodSandboxConfigSchema>>;
export type ContainerInit = Plain<MessageInitShape<typeof ContainerConfigSchema>>;

export type TestContainer = { readonly podId: string; readonly id: string; readonly logPath: string };

export class TestCri implements Disposable {
  readonly runtime: GrpcClient<typeof RuntimeService>;
  readonly images: GrpcClient<typeof ImageService>;
  readonly #logs: string;
  #serial = 0;

  constructor(socket: string, work: string) {
    this.runtime = createGrpcClient(RuntimeService, `unix://${socket}`);
    this.images = createGrpcClient(ImageService, `unix://${socket}`);
    this.#logs = join(work, "logs");
  }

  async pull(image: string): Promise<void> {
    await this.images.callUnary("pullImage", { image: { image, userSpecifiedImage: image } });
  }

  podConfig(more: PodInit = {}, linux: LinuxPodInit = {}): PodInit & { readonly logDirectory: string } {
    const name = `test-${++this.#serial}`;
    const logDirectory = join(this.#logs, name);
    mkdirSync(logDirectory, { recursive: true });
    return {
      metadata: { name, namespace: "test", uid: name, attempt: 0 },
      logDirectory,
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } }, ...linux },
      ...more,
    };
  }

  async runPod(runtimeHandler: string, config: PodInit = this.podConfig()): Promise<string> {
    return (await this.runtime.callUnary("runPodSandbox", { config, runtimeHandler })).podSandboxId;
  }

  async create(
    podId: string,
    config: PodInit,
    image: string,
    more: ContainerInit = {},
  ): Promise<TestContainer> {
    const name = `c-${++this.#serial}`;
    const { containerId } = await this.runtime.callUnary("createContainer", {
      podSandboxId: podId,
      sandboxConfig: config,
      config: {
        metadata: { name, attempt: 0 },
        image: { image, userSpecifiedImage: image },
        command: ["sleep", "1000"],
        logPath: `${name}.log`,
        linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
        ...more,
      },
    });
    return { podId, id: containerId, logPath: join(config.logDirectory ?? "", `${name}.log`) };
  }

  async start(
    podId: string,
    config: PodInit,
    image: string,
    more: ContainerInit = {},
  ): Promise<TestContainer> {
    const container = await this.create(podId, config, image, more);
    await this.runtime.callUnary("startContainer", { containerId: container.id });
    return container;
  }

  async exec(container: TestContainer, ...cmd: readonly string[]): Promise<ExecSyncResponse> {
    return this.runtime.callUnary("execSync", { containerId: container.id, cmd: [...cmd], timeout: 60n });
  }

  /** Standard output of a command that must succeed. */
  async output(container: TestContainer, ...cmd: readonly string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await this.exec(container, ...cmd);
    if (exitCode !== 0)
      throw new Error(`${cmd.join(" ")}: exit code ${exitCode}: ${Buffer.from(stderr).toString()}`);
    return Buffer.from(stdout).toString();
  }

  /** Of a container that has ended; undefined while it has not. */
  async exitCode({ id }: TestContainer): Promise<number | undefined> {
    const { status } = await this.runtime.callUnary("containerStatus", { containerId: id });
    return status?.state === ContainerState.CONTAINER_EXITED ? status.exitCode : undefined;
  }

  async removePods(): Promise<void> {
    const { items } = await this.runtime.callUnary("listPodSandbox", {});
    await Promise.all(
      items.map(async ({ id }) => {
        await this.runtime.callUnary("stopPodSandbox", { podSandboxId: id });
        await this.runtime.callUnary("removePodSandbox", { podSandboxId: id });
      }),
    );
  }

  [Symbol.dispose](): void {
    this.runtime.close();
    this.images.close();
  }
}
