/** What the kubelet asks every second: list and status calls with 200 containers on each daemon, batch by batch in turns. */
import { type BenchPod, type Contender, manyPods } from "./cri-pod.ts";
import { type Figure, median, quantile, type Samples, timed } from "./figures.ts";
import { RawCri } from "./raw-cri.ts";
import type { Stage } from "./stage.ts";

const podCount = 20;
/** Of which one runs and the others are created: both daemons keep those in the same way. */
const containersPerPod = 10;
const parallel = 8;
/** Calls of a batch */
const batch = 40;
/** Of each call before what counts: Node compiles what is called often, and a kubelet asks this much in seven minutes. */
const warmUpBatches = 10;

type Node = {
  readonly cri: RawCri;
  readonly pods: readonly BenchPod[];
  readonly containerIds: readonly string[];
};

/** The `n`th call of a kind. */
type Ask = (node: Node, n: number) => Promise<unknown>;

const calls: Readonly<Record<string, Ask>> = {
  ListContainers: ({ cri }) => cri.ask("listContainers", {}),
  ListPodSandbox: ({ cri }) => cri.ask("listPodSandbox", {}),
  ContainerStatus: ({ cri, containerIds }, n) =>
    cri.ask("containerStatus", { containerId: containerIds[n % containerIds.length] ?? "" }),
  PodSandboxStatus: ({ cri, pods }, n) =>
    cri.ask("podSandboxStatus", { podSandboxId: pods[n % pods.length]?.id ?? "" }),
  ListContainerStats: ({ cri }) => cri.ask("listContainerStats", {}),
};

async function fill(
  contender: Contender,
  socket: string,
  image: string,
  stack: AsyncDisposableStack,
): Promise<Node> {
  const pods = await manyPods(contender, podCount, image, stack);
  const ids = pods.map(({ container }) => container.id);
  for (const pod of pods)
    for (let n = 1; n < containersPerPod; n++)
      ids.push((await pod.createContainer(image, ["sleep", "600"])).id);
  return { cri: stack.use(new RawCri(socket)), pods, containerIds: ids };
}

/** One batch, `width` calls at a time. */
async function askBatch(node: Node, ask: Ask, samples: Samples, width: number): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < batch) {
      const n = next++;
      await timed(samples, () => ask(node, n));
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
}

/** `rounds` batches of each call on each daemon, one call at a time and eight at a time. */
export async function queryFigures(
  stage: Stage,
  rounds: number,
  say: (text: string) => void,
): Promise<readonly Figure[]> {
  say(`lists: ${podCount * containersPerPod} containers on each daemon`);
  await using stack = new AsyncDisposableStack();
  const ours = await fill(stage.crun, stage.sockets.tinderbox, stage.small, stack);
  const theirs = await fill(stage.runc, stage.sockets.containerd, stage.small, stack);
  const figures: Figure[] = [];
  for (const [name, ask] of Object.entries(calls))
    for (const width of [1, parallel]) {
      const samples = new Map<Node, Samples>([
        [ours, []],
        [theirs, []],
      ]);
      for (let round = -warmUpBatches; round < rounds; round++) {
        for (const node of round % 2 === 0 ? [ours, theirs] : [theirs, ours])
          await askBatch(node, ask, round < 0 ? [] : (samples.get(node) ?? []), width);
      }
      const [mine, peers] = [samples.get(ours) ?? [], samples.get(theirs) ?? []];
      const label = width === 1 ? name : `${name}, ${width} at a time`;
      const peer = (value: number) => ({ peer: { name: "containerd", value } });
      figures.push(
        { name: label, unit: "ms", value: median(mine), samples: mine, ...peer(median(peers)), goal: 1 },
        { name: `${label}, p99`, unit: "ms", value: quantile(mine, 0.99), ...peer(quantile(peers, 0.99)) },
      );
    }
  return figures;
}
