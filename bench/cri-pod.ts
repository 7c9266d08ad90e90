/** A pod with one container, asked for step by step, so that each step can be measured: the same requests for every daemon. */
import { statSync, watch } from "node:fs";
import { join } from "node:path";
import type { PodInit, TestContainer, TestCri } from "../tests/support/cri-client.ts";

/** A daemon with one of its runtime handlers. */
export type Contender = {
  readonly label: string;
  readonly cri: TestCri;
  readonly handler: string;
  /** The daemon's process */
  readonly pid: number;
};

export class BenchPod {
  readonly #contender: Contender;
  readonly #config: PodInit & { readonly logDirectory: string };
  #podId = "";
  #container: TestContainer | undefined;

  constructor(contender: Contender) {
    this.#contender = contender;
    this.#config = contender.cri.podConfig({ hostname: "bench" });
  }

  get id(): string {
    return this.#podId;
  }

  get container(): TestContainer {
    if (this.#container === undefined) throw new Error("the pod has no container yet");
    return this.#container;
  }

  async run(): Promise<void> {
    this.#podId = await this.#contender.cri.runPod(this.#contender.handler, this.#config);
  }

  async createContainer(image: string, command: readonly string[]): Promise<TestContainer> {
    const { cri } = this.#contender;
    this.#container = await cri.create(this.#podId, this.#config, image, { command: [...command] });
    return this.#container;
  }

  async startContainer(image: string, command: readonly string[]): Promise<void> {
    const { id: containerId } = await this.createContainer(image, command);
    await this.#contender.cri.runtime.callUnary("startContainer", { containerId });
  }

  async exec(...command: readonly string[]): Promise<void> {
    await this.#contender.cri.output(this.container, ...command);
  }

  /** Until the container's log has a byte. */
  async firstOutput(): Promise<void> {
    const { logPath } = this.container;
    await using stack = new AsyncDisposableStack();
    await new Promise<void>((resolve) => {
      const look = (): void => {
        if ((statSync(logPath, { throwIfNoEntry: false })?.size ?? 0) > 0) resolve();
      };
      const watcher = watch(join(logPath, ".."), look);
      stack.defer(() => watcher.close());
      look();
    });
  }

  async remove(): Promise<void> {
    if (this.#podId === "") return;
    const { runtime } = this.#contender.cri;
    await runtime.callUnary("stopPodSandbox", { podSandboxId: this.#podId });
    await runtime.callUnary("removePodSandbox", { podSandboxId: this.#podId });
  }
}

/** Makes `count` pods with a running container each, and gives them. They are removed when the stack is disposed of. */
export async function manyPods(
  contender: Contender,
  count: number,
  image: string,
  stack: AsyncDisposableStack,
): Promise<readonly BenchPod[]> {
  const pods = Array.from({ length: count }, () => new BenchPod(contender));
  stack.defer(async () => {
    for (const pod of pods) await pod.remove();
  });
  for (const pod of pods) {
    await pod.run();
    await pod.startContainer(image, ["sleep", "600"]);
  }
  return pods;
}
