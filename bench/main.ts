/** `make bench`: ratios to containerd with runc, and to the bare VMM, taken in turns in one run. */
import { mkdtempSync, rmSync } from "node:fs";
import { parseArgs } from "node:util";
import { adapterCost } from "./adapter.ts";
import { critestFigures } from "./critest.ts";
import { type Figure, formatFigures } from "./figures.ts";
import { isOwnNode, runOnOwnNode } from "./own-node.ts";
import { memoryFigures } from "./pod-memory.ts";
import { queryFigures } from "./queries.ts";
import { setStage } from "./stage.ts";
import { startFigures } from "./starts.ts";
import { traces } from "./trace.ts";

const parts = ["starts", "memory", "lists", "critest", "adapter", "trace"] as const;
type Part = (typeof parts)[number];

const usage = `bench/main.ts [--only PART,...] [--rounds N] [--pods N] [--microvms N] [--rest SECONDS] [--json]
  --only PART,...  of ${parts.join(", ")} (all but trace)
  --rounds N       samples of each duration; fewer or more of what is quicker or slower (10)
  --pods N         host pods while memory is weighed (20)
  --microvms N     microVMs while memory is weighed (3)
  --rest SECONDS   before memory is weighed; Go gives memory back within two minutes (130)
  --json           figures as JSON, with all samples`;

const { values } = parseArgs({
  options: {
    only: { type: "string", default: parts.filter((part) => part !== "trace").join(",") },
    rounds: { type: "string", default: "10" },
    pods: { type: "string", default: "20" },
    microvms: { type: "string", default: "3" },
    rest: { type: "string", default: "130" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", short: "h", default: false },
  },
});

function refuse(message: string): never {
  console.error(`${message}\n${usage}`);
  return process.exit(2);
}

function count(flag: "rounds" | "pods" | "microvms" | "rest", max: number): number {
  const value = Number(values[flag]);
  if (Number.isInteger(value) && value >= 1 && value <= max) return value;
  return refuse(`--${flag} ${JSON.stringify(values[flag])}: a whole number from 1 to ${max}`);
}

function isPart(name: string): name is Part {
  return parts.some((part) => part === name);
}

function wantedParts(): ReadonlySet<Part> {
  return new Set(
    values.only
      .split(",")
      .map((name) => (isPart(name) ? name : refuse(`--only ${JSON.stringify(name)}: ${parts.join(", ")}`))),
  );
}

const say = (text: string): void => void process.stderr.write(`bench: ${text}\n`);

async function main(): Promise<void> {
  const [wanted, rounds] = [wantedParts(), count("rounds", 100)];
  const weights = {
    pods: count("pods", 100),
    microvms: count("microvms", 100),
    restSeconds: count("rest", 3600),
  };
  const work = mkdtempSync("/tmp/tb-bench-");
  const figures: Figure[] = [];
  try {
    if ([...wanted].some((part) => part !== "adapter")) {
      await using stack = new AsyncDisposableStack();
      const stage = await setStage(work, stack);
      if (wanted.has("starts")) figures.push(...(await startFigures(work, stage, rounds, say)));
      if (wanted.has("memory")) figures.push(...(await memoryFigures(stage, weights, say)));
      if (wanted.has("lists")) figures.push(...(await queryFigures(stage, rounds, say)));
      if (wanted.has("critest"))
        figures.push(...(await critestFigures(work, stage, Math.ceil(rounds / 3), say)));
      if (wanted.has("trace")) console.log(await traces(work, stage, rounds, say));
    }
    if (wanted.has("adapter")) {
      say("firecracker-qemu beside bare QEMU");
      figures.push(...(await adapterCost(work, rounds)));
    }
    if (figures.length > 0)
      console.log(values.json ? JSON.stringify(figures, undefined, 2) : formatFigures(figures));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

if (values.help) console.log(usage);
else if (isOwnNode) await main();
else process.exitCode = await runOnOwnNode();
