/** How long a pod, a container, an exec and a pull take, in turns with containerd and with the bare VMM. */
import { bareBoot } from "./bare-boot.ts";
import { BenchPod, type Contender } from "./cri-pod.ts";
import { type Figure, median, type Samples, timed } from "./figures.ts";
import type { Stage } from "./stage.ts";

/** Rounds that pull too. */
const pullRounds = 5;

/** Every duration of one contender, in ms. */
class Series {
  readonly contender: Contender;
  readonly runPod: Samples = [];
  readonly podAndContainer: Samples = [];
  readonly exec: Samples = [];
  readonly pullToOutput: Samples = [];

  constructor(contender: Contender) {
    this.contender = contender;
  }

  forget(): void {
    for (const samples of [this.runPod, this.podAndContainer, this.exec]) samples.length = 0;
  }

  async life(image: string): Promise<void> {
    const pod = new BenchPod(this.contender);
    try {
      await timed(this.podAndContainer, async () => {
        await timed(this.runPod, () => pod.run());
        await pod.startContainer(image, ["sleep", "600"]);
      });
      for (let n = 0; n < 3; n++) await timed(this.exec, () => pod.exec("true"));
    } finally {
      await pod.remove();
    }
  }

  async pull(image: string): Promise<void> {
    const { cri } = this.contender;
    await cri.images.callUnary("removeImage", { image: { image } });
    const pod = new BenchPod(this.contender);
    try {
      await timed(this.pullToOutput, async () => {
        await cri.pull(image);
        await pod.run();
        await pod.startContainer(image, ["sh", "-c", "echo out; sleep 600"]);
        await pod.firstOutput();
      });
    } finally {
      await pod.remove();
    }
  }
}

/** `rounds` of each, after one that does not count: caches are warm after it. */
export async function startFigures(
  work: string,
  stage: Stage,
  rounds: number,
  say: (text: string) => void,
): Promise<readonly Figure[]> {
  const [crun, runc] = [new Series(stage.crun), new Series(stage.runc)];
  const microvm = new Series(stage.microvm);
  const bare: Samples = [];
  const all = [crun, runc, microvm];
  for (let round = 0; round <= rounds; round++) {
    say(round === 0 ? "starts: one round that does not count" : `starts: round ${round} of ${rounds}`);
    // Neither always comes first.
    const pair = round % 2 === 0 ? [crun, runc] : [runc, crun];
    for (const series of pair) await series.life(stage.small);
    await bareBoot(work, (boot) => timed(bare, boot));
    await microvm.life(stage.small);
    if (round === 0) {
      for (const series of all) series.forget();
      bare.length = 0;
    } else if (round <= pullRounds) for (const series of pair) await series.pull(stage.large);
  }
  const of = (name: string, samples: Samples, peer: string, others: Samples, goal?: number): Figure => ({
    name,
    unit: "ms",
    value: median(samples),
    samples,
    peer: { name: peer, value: median(others) },
    ...(goal === undefined ? {} : { goal }),
  });
  return [
    of("RunPodSandbox, firecracker", microvm.runPod, "bare VMM", bare, 1.15),
    of("pod + container start, crun", crun.podAndContainer, "containerd", runc.podAndContainer, 0.8),
    of("pod + container start, firecracker", microvm.podAndContainer, "containerd", runc.podAndContainer),
    of("exec true, crun", crun.exec, "containerd", runc.exec, 0.8),
    of("exec true, firecracker", microvm.exec, "containerd", runc.exec),
    of("pull to first output, crun", crun.pullToOutput, "containerd", runc.pullToOutput),
  ];
}
