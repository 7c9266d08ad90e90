/**
 * Resident memory: the daemon's, and that of every process it or its pods own; the containers' own processes are left
 * out, the same for both daemons. While it is looked at, each is asked for its lists once a second, as a kubelet asks.
 */
import { setTimeout as delay } from "node:timers/promises";
import { type Contender, manyPods } from "./cri-pod.ts";
import type { Figure } from "./figures.ts";
import { newMemory, processIds, pssOf } from "./memory.ts";
import type { Stage } from "./stage.ts";

/** What containers run. */
const containers = ["sleep"];
const vmm = ["qemu-system-x86_64", "qemu-system-aarch64", "firecracker"];

type Weight = {
  readonly daemonMib: number;
  /** MiB of all its pods by a program's name, without the containers' */
  readonly pods: ReadonlyMap<string, number>;
};

const sum = (sizes: ReadonlyMap<string, number>, without: readonly string[] = []): number =>
  [...sizes].reduce((all, [name, mib]) => (without.includes(name) ? all : all + mib), 0);

/** As a kubelet does, for `seconds`. */
async function rest(contenders: readonly Contender[], seconds: number): Promise<void> {
  for (let second = 0; second < seconds; second++) {
    await delay(1000);
    for (const { cri } of contenders) {
      await cri.runtime.callUnary("listPodSandbox", {});
      await cri.runtime.callUnary("listContainers", {});
    }
  }
}

/** Starts `count` pods, waits, weighs, removes the pods. */
async function weigh(
  contender: Contender,
  count: number,
  image: string,
  restSeconds: number,
): Promise<Weight> {
  const before = processIds();
  await using stack = new AsyncDisposableStack();
  await manyPods(contender, count, image, stack);
  await rest([contender], restSeconds);
  const found = new Map([...newMemory(before)].filter(([name]) => !containers.includes(name)));
  return { daemonMib: pssOf(contender.pid), pods: found };
}

/** With `count` pods on each daemon in turn, and as many microVMs as `microvms`. */
export async function memoryFigures(
  stage: Stage,
  { pods, microvms, restSeconds }: { pods: number; microvms: number; restSeconds: number },
  say: (text: string) => void,
): Promise<readonly Figure[]> {
  say(`memory: ${pods} pods each, weighed after ${restSeconds} s of rest`);
  const runc = await weigh(stage.runc, pods, stage.small, restSeconds);
  const crun = await weigh(stage.crun, pods, stage.small, restSeconds);
  const vm = await weigh(stage.microvm, microvms, stage.small, restSeconds);
  for (const [label, { daemonMib, pods: sizes }] of Object.entries({ crun, runc, firecracker: vm }))
    say(
      `memory: ${label}: daemon ${daemonMib.toFixed(1)} MiB, pods ${[...sizes].map(([name, mib]) => `${name} ${mib.toFixed(1)}`).join(", ")}`,
    );
  const of = (name: string, value: number, more: Partial<Figure>): Figure => ({
    name,
    unit: "MiB",
    value,
    ...more,
  });
  const theirs = (value: number): Partial<Figure> => ({ peer: { name: "containerd", value } });
  return [
    of(`the daemon and ${pods} host pods`, crun.daemonMib + sum(crun.pods), {
      ...theirs(runc.daemonMib + sum(runc.pods)),
      goal: 0.5,
    }),
    of("of that, the daemon", crun.daemonMib, theirs(runc.daemonMib)),
    of("of that, a host pod", sum(crun.pods) / pods, theirs(sum(runc.pods) / pods)),
    of("a host pod, alone", sum(crun.pods) / pods, { goal: 3 }),
    of("a microVM pod, without QEMU and its adapter", sum(vm.pods, [...vmm, "firecracker-qemu"]) / microvms, {
      goal: 15,
    }),
    of("a microVM pod, without QEMU", sum(vm.pods, vmm) / microvms, {}),
  ];
}
