/** critest's own benchmarks, as Kubernetes' CI runs them, on both daemons in turns; its result files become ratios. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Figure, median } from "./figures.ts";
import { clients } from "./places.ts";
import type { Stage } from "./stage.ts";

/** Its blocks, by their files' names. */
const files = ["pod", "container", "image_lifecycle", "image_listing"] as const;
/** Samples of each block in one run. */
const samplesPerRun = 5;

type Runner = { readonly name: string; readonly socket: string; readonly handler: string };
/** Durations in ms by operation. */
type Durations = Map<string, number[]>;

/** What critest writes: operations' names, and for each sample their durations in the same order. */
type ResultFile = {
  readonly operationsNames: readonly string[];
  readonly datapoints: readonly { readonly operationsDurationsNs: readonly number[] }[];
};

function parseResults(path: string, durations: Durations): void {
  // critest's own file: its shape is LifecycleBenchmarksResultsSet of cri-tools
  const { operationsNames, datapoints } = JSON.parse(readFileSync(path, "utf8")) as ResultFile;
  for (const [n, name] of operationsNames.entries()) {
    const samples = durations.get(name) ?? [];
    for (const { operationsDurationsNs } of datapoints) samples.push((operationsDurationsNs[n] ?? 0) / 1e6);
    durations.set(name, samples);
  }
}

async function runOnce(runner: Runner, stage: Stage, directory: string): Promise<void> {
  mkdirSync(directory, { recursive: true });
  const parameters = join(directory, "parameters.yaml");
  const numbers = ["containersNumber", "podsNumber", "imagesNumber"].map(
    (name) => `${name}: ${samplesPerRun}`,
  );
  const timeouts = ["containerBenchmark", "podBenchmark", "imageBenchmark", "podContainerStartBenchmark"].map(
    (name) => `${name}TimeoutSeconds: 60`,
  );
  const images = [
    `imagePullingBenchmarkImage: ${stage.large}`,
    `imageListingBenchmarkImages: [${stage.small}, ${stage.large}]`,
  ];
  writeFileSync(parameters, `${[...numbers, ...timeouts, ...images].join("\n")}\n`);
  const names = join(directory, "images.yaml");
  writeFileSync(names, `defaultTestContainerImage: ${stage.small}\n`);
  const log = join(directory, "critest.log");
  const fd = openSync(log, "w");
  const child = spawn(
    join(clients, "critest"),
    [
      "-benchmark",
      `-runtime-endpoint=unix://${runner.socket}`,
      `-image-endpoint=unix://${runner.socket}`,
      `-runtime-handler=${runner.handler}`,
      `-benchmarking-params-file=${parameters}`,
      `-benchmarking-output-dir=${directory}`,
      `-test-images-file=${names}`,
      "-ginkgo.no-color",
      // A config file of the host's would name another runtime.
      "-config=/nonexistent",
    ],
    { stdio: ["ignore", fd, fd], env: { ...process.env, PATH: `${clients}:${process.env["PATH"] ?? ""}` } },
  );
  closeSync(fd);
  const [status] = await once(child, "exit");
  if (status !== 0)
    throw new Error(
      `critest -benchmark on ${runner.name}: status ${status}\n${readFileSync(log, "utf8").slice(-4000)}`,
    );
}

/** `rounds` runs of critest on each. */
export async function critestFigures(
  work: string,
  stage: Stage,
  rounds: number,
  say: (text: string) => void,
): Promise<readonly Figure[]> {
  const ours = { name: "tinderbox", socket: stage.sockets.tinderbox, handler: "crun" };
  const theirs = { name: "containerd", socket: stage.sockets.containerd, handler: "runc" };
  const durations = new Map<Runner, Durations>([
    [ours, new Map()],
    [theirs, new Map()],
  ]);
  for (let round = 1; round <= rounds; round++) {
    say(`critest's benchmarks: round ${round} of ${rounds}`);
    for (const runner of round % 2 === 0 ? [theirs, ours] : [ours, theirs]) {
      const directory = join(work, "critest", `${runner.name}-${round}`);
      await runOnce(runner, stage, directory);
      for (const file of files)
        parseResults(join(directory, `${file}_benchmark_data.json`), durations.get(runner) ?? new Map());
    }
  }
  return [...(durations.get(ours) ?? [])].map(([operation, samples]) => ({
    name: `critest: ${operation}, crun`,
    unit: "ms",
    value: median(samples),
    samples,
    peer: { name: "containerd", value: median(durations.get(theirs)?.get(operation) ?? []) },
  }));
}
