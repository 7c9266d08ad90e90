/** `make bench`: ratios to containerd with runc, and to the bare VMM, taken in turns in one run. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { pushBusyboxImage, pushImage } from "../tests/support/busybox-image.ts";
import { writeBridgeConf } from "../tests/support/cni.ts";
import { startDaemon } from "../tests/support/daemon.ts";
import { startRegistry } from "../tests/support/test-registry.ts";
import { adapterCost } from "./adapter.ts";
import { bareBoot } from "./bare-boot.ts";
import { startContainerd } from "./containerd.ts";
import { BenchPod, type Cri, connectCri } from "./cri-pod.ts";
import { type Figure, formatFigures, median, type Samples, timed } from "./figures.ts";
import { newMemory, processIds, pssOf } from "./memory.ts";

const usage = `bench/main.ts [--rounds N] [--pods N] [--adapter] [--json]
  --rounds N   samples of each duration (10)
  --pods N     pods of each kind while memory is measured (5)
  --adapter    only what firecracker-qemu costs beside QEMU
  --json       figures as JSON, with all samples`;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "10" },
    pods: { type: "string", default: "5" },
    adapter: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    help: { type: "boolean", short: "h", default: false },
  },
});

function count(flag: "rounds" | "pods"): number {
  const value = Number(values[flag]);
  if (Number.isInteger(value) && value >= 1 && value <= 100) return value;
  console.error(`--${flag} ${JSON.stringify(values[flag])}: a whole number from 1 to 100\n${usage}`);
  return process.exit(2);
}

const say = (text: string): void => void process.stderr.write(`bench: ${text}\n`);

/** Every duration of one daemon. */
class Series {
  readonly cri: Cri;
  readonly label: string;
  readonly runPod: Samples = [];
  readonly podAndContainer: Samples = [];
  readonly exec: Samples = [];
  readonly pullToOutput: Samples = [];

  constructor(label: string, cri: Cri) {
    this.label = label;
    this.cri = cri;
  }

  async life(work: string, image: string): Promise<void> {
    const pod = new BenchPod(this.cri, work);
    try {
      await timed(this.podAndContainer, async () => {
        await timed(this.runPod, () => pod.run());
        await pod.startContainer(image, ["sleep", "600"]);
      });
      for (let n = 0; n < 3; n++) await timed(this.exec, () => pod.exec(["true"]));
    } finally {
      await pod.remove();
    }
  }

  async pull(work: string, image: string): Promise<void> {
    await this.cri.images.callUnary("removeImage", { image: { image } });
    const pod = new BenchPod(this.cri, work);
    try {
      await timed(this.pullToOutput, async () => {
        await this.cri.images.callUnary("pullImage", { image: { image, userSpecifiedImage: image } });
        await pod.run();
        await pod.startContainer(image, ["sh", "-c", "echo out; sleep 600"]);
        await pod.firstOutput();
      });
    } finally {
      await pod.remove();
    }
  }

  /** MiB by program's name with `pods` pods, and how much the daemon has grown by them. */
  async memory(
    work: string,
    image: string,
    pods: number,
    daemonPid: number,
  ): Promise<ReadonlyMap<string, number>> {
    const [before, daemonBefore] = [processIds(), pssOf(daemonPid)];
    const made = Array.from({ length: pods }, () => new BenchPod(this.cri, work));
    try {
      for (const pod of made) {
        await pod.run();
        await pod.startContainer(image, ["sleep", "600"]);
      }
      const found = new Map(newMemory(before));
      found.set("(growth of the daemon)", pssOf(daemonPid) - daemonBefore);
      return new Map([...found].map(([name, mib]) => [name, mib / pods]));
    } finally {
      for (const pod of made) await pod.remove();
    }
  }
}

function sum(memory: ReadonlyMap<string, number>, without: readonly string[]): number {
  return [...memory].reduce((all, [name, mib]) => (without.includes(name) ? all : all + mib), 0);
}

async function podFigures(work: string, rounds: number, pods: number): Promise<readonly Figure[]> {
  await using stack = new AsyncDisposableStack();
  const registry = await startRegistry({ dir: join(work, "registry") });
  stack.defer(() => registry.stop());
  const small = `${registry.host}/bench/busybox:latest`;
  await pushBusyboxImage(registry.url, "bench/busybox", "latest");
  const pause = `${registry.host}/bench/pause:latest`;
  const busybox = spawnSync("tar", ["-C", "/", "-cf", "-", "bin/busybox"], { maxBuffer: 1 << 28 }).stdout;
  await pushImage(registry.url, "bench/pause", "latest", [busybox], {
    Entrypoint: ["/bin/busybox", "tail", "-f", "/dev/null"],
  });
  // A layer of real files on a shell: programs and firmware that QEMU's package brings on every such host.
  const files = spawnSync("tar", ["-C", "/", "-cf", "-", "usr/share/qemu", "usr/share/perl"], {
    maxBuffer: 1 << 30,
  }).stdout;
  const large = `${registry.host}/bench/large:latest`;
  await pushImage(registry.url, "bench/large", "latest", [busyboxWithShell(), files], { Env: ["PATH=/bin"] });
  say(`the image that is pulled has ${(files.length / 2 ** 20).toFixed(0)} MiB of files`);
  const cni = writeBridgeConf(join(work, "cni"));
  stack.defer(() => cni.remove());
  const daemon = await startDaemon({
    root: join(work, "root"),
    state: join(work, "run"),
    configToml: `[cni]\nconf_dir = ${JSON.stringify(cni.confDir)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
    logLevel: "info",
  });
  stack.defer(() => daemon.stop());
  const peer = await startContainerd(join(work, "containerd"), cni.confDir, pause);
  stack.defer(() => peer.stop());
  const crun = new Series("crun", stack.use(connectCri(daemon.socket, "crun")));
  const microvm = new Series("firecracker", stack.use(connectCri(daemon.socket, "firecracker")));
  const runc = new Series("containerd", stack.use(connectCri(peer.socket, "runc")));
  const all = [crun, runc, microvm];

  for (const { cri } of [crun, runc])
    await cri.images.callUnary("pullImage", { image: { image: small, userSpecifiedImage: small } });
  say("one round that does not count: caches are warm after it");
  for (const series of all) await series.life(work, small);
  await bareBoot(work, (boot) => boot());
  for (const { runPod, podAndContainer, exec } of all)
    for (const samples of [runPod, podAndContainer, exec]) samples.length = 0;

  const bare: Samples = [];
  for (let round = 1; round <= rounds; round++) {
    say(`round ${round} of ${rounds}`);
    for (const series of [crun, runc]) await series.life(work, small);
    await bareBoot(work, (boot) => timed(bare, boot));
    await microvm.life(work, small);
    if (round > Math.min(rounds, 5)) continue;
    for (const series of [crun, runc]) await series.pull(work, large);
  }
  say("memory");
  const daemonPid = daemon.child.pid ?? 0;
  const [daemonIdle, peerIdle] = [pssOf(daemonPid), pssOf(peer.pid)];
  const crunMemory = await crun.memory(work, small, pods, daemonPid);
  const runcMemory = await runc.memory(work, small, pods, peer.pid);
  const vmMemory = await microvm.memory(work, small, pods, daemonPid);
  for (const [label, memory] of [
    ["crun", crunMemory],
    ["containerd", runcMemory],
    ["firecracker", vmMemory],
  ] as const)
    say(`MiB a pod, ${label}: ${[...memory].map(([name, mib]) => `${name} ${mib.toFixed(1)}`).join(", ")}`);

  const beside = (name: string, samples: Samples): Figure["peer"] & {} => ({ name, value: median(samples) });
  const vmm = ["sleep", "qemu-system-x86_64", "qemu-system-aarch64"];
  return [
    {
      name: "RunPodSandbox, firecracker",
      unit: "ms",
      value: median(microvm.runPod),
      samples: microvm.runPod,
      peer: beside("bare VMM", bare),
      goal: 1.15,
    },
    {
      name: "pod + container start, crun",
      unit: "ms",
      value: median(crun.podAndContainer),
      samples: crun.podAndContainer,
      peer: beside("containerd", runc.podAndContainer),
      goal: 0.8,
    },
    {
      name: "pod + container start, firecracker",
      unit: "ms",
      value: median(microvm.podAndContainer),
      samples: microvm.podAndContainer,
      peer: beside("containerd", runc.podAndContainer),
    },
    {
      name: "exec true, crun",
      unit: "ms",
      value: median(crun.exec),
      samples: crun.exec,
      peer: beside("containerd", runc.exec),
    },
    {
      name: "exec true, firecracker",
      unit: "ms",
      value: median(microvm.exec),
      samples: microvm.exec,
      peer: beside("containerd", runc.exec),
    },
    {
      name: "pull to first output, crun",
      unit: "ms",
      value: median(crun.pullToOutput),
      samples: crun.pullToOutput,
      peer: beside("containerd", runc.pullToOutput),
    },
    { name: "the daemon", unit: "MiB", value: daemonIdle, peer: { name: "containerd", value: peerIdle } },
    {
      name: "a host pod",
      unit: "MiB",
      value: sum(crunMemory, ["sleep"]),
      peer: { name: "containerd", value: sum(runcMemory, ["sleep"]) },
    },
    { name: "a host pod, alone", unit: "MiB", value: sum(crunMemory, ["sleep"]), goal: 3 },
    {
      name: "a microVM pod, without QEMU and its adapter",
      unit: "MiB",
      value: sum(vmMemory, [...vmm, "firecracker-qemu"]),
      goal: 15,
    },
    { name: "a microVM pod, without QEMU", unit: "MiB", value: sum(vmMemory, vmm) },
  ];
}

async function main(rounds: number, pods: number): Promise<void> {
  const work = mkdtempSync("/tmp/tb-bench-");
  try {
    const figures = [...(values.adapter ? [] : await podFigures(work, rounds, pods))];
    say("firecracker-qemu beside bare QEMU");
    figures.push(...(await adapterCost(work, rounds)));
    console.log(values.json ? JSON.stringify(figures, undefined, 2) : formatFigures(figures));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** A layer with a shell and what a container needs around it. */
function busyboxWithShell(): Buffer {
  const script = ["-C", "/", "--transform", "s#^bin/busybox$#bin/sh#", "-cf", "-", "bin/busybox"];
  const shell = spawnSync("tar", script, { maxBuffer: 1 << 28 });
  if (shell.status !== 0) throw new Error(`tar: ${shell.stderr.toString()}`);
  return shell.stdout;
}

if (values.help) console.log(usage);
else await main(count("rounds"), count("pods"));
