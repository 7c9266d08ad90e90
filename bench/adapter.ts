/** What firecracker-qemu costs beside the QEMU that it runs: memory, and time from its start to the guest's call on vsock. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { Duplex } from "node:stream";
import { DeviceHost } from "../packages/firecracker-qemu/src/qemu/device-host.ts";
import { descendantsOf } from "../tests/support/process-tree.ts";
import { callApi, startVmm } from "../tests/support/vmm-process.ts";
import { type Figure, median, type Samples, timed } from "./figures.ts";
import { mappedMemory } from "./memory.ts";
import { bin, guest } from "./places.ts";

const qemu = "qemu-system-";
const port = 1024;
/** QEMU's descriptor for its control connection, in the adapter's command line */
const controlFd = 3;
/** Running machines while memory is measured */
const machines = 10;

/** Durations from the start of a program, in ms. */
class Durations {
  /** Until the guest's processor runs */
  readonly running: Samples = [];
  /** Until the guest has called on vsock */
  readonly called: Samples = [];

  clear(): void {
    this.running.length = 0;
    this.called.length = 0;
  }
}

/** A machine that runs: its guest has called. */
type Machine = {
  /** QEMU's, its program first */
  readonly args: readonly string[];

  memory(): number;
  [Symbol.asyncDispose](): Promise<void>;
};

function newDirectory(work: string): string {
  const directory = mkdtempSync(join(work, "adapter-"));
  writeFileSync(join(directory, "scratch.img"), "");
  truncateSync(join(directory, "scratch.img"), 64 << 20);
  return directory;
}

/** Resolves at the guest's first call. */
async function firstCall(directory: string): Promise<{ readonly called: Promise<void> }> {
  const server = createServer();
  const called = once(server, "connection").then(([socket]) => {
    socket.destroy();
    server.close();
  });
  server.listen(join(directory, `vsock.sock_${port}`));
  await once(server, "listening");
  return { called };
}

/** The number after `before` in one of `args`: that of a descriptor which QEMU inherits. */
function descriptor(args: readonly string[], before: RegExp): number {
  for (const argument of args) {
    const [found] = before.exec(argument) ?? [];
    if (found !== undefined)
      return Number(/^\d+/.exec(argument.slice(argument.indexOf(found) + found.length))?.[0]);
  }
  throw new Error(`QEMU's command line has no ${before}`);
}

/** Boots by the adapter's API. */
async function boot(work: string, durations: Durations): Promise<Machine> {
  const directory = newDirectory(work);
  const { called } = await firstCall(directory);
  const vmm = await timed(durations.called, async () => {
    const begun = performance.now();
    const started = startVmm(join(bin, "firecracker-qemu"), directory, { args: ["--level", "Off"] });
    await started.ready;
    const put = async (path: string, body: object): Promise<void> => {
      const { status, body: said } = await callApi(started.socket, "PUT", path, body);
      if (status !== 204) throw new Error(`PUT ${path}: ${status} ${said}`);
    };
    await put("/machine-config", { vcpu_count: 1, mem_size_mib: 256 });
    await put("/boot-source", {
      kernel_image_path: join(guest, "vmlinux"),
      initrd_path: join(guest, "initramfs.img"),
      boot_args: "quiet reboot=k panic=-1 8250.nr_uarts=0 i8042.noaux cryptomgr.notests random.trust_cpu=on",
    });
    const scratch = {
      drive_id: "scratch",
      path_on_host: join(directory, "scratch.img"),
      is_root_device: false,
    };
    await put("/drives/scratch", scratch);
    await put("/vsock", { guest_cid: 3, uds_path: join(directory, "vsock.sock") });
    await put("/actions", { action_type: "InstanceStart" });
    durations.running.push(performance.now() - begun);
    await called;
    return started;
  });
  const parts = descendantsOf(vmm.pid);
  const qemuPid = parts.find(({ command }) => command.startsWith(qemu))?.pid;
  if (qemuPid === undefined) throw new Error("the adapter runs no QEMU");
  return {
    args: readFileSync(`/proc/${qemuPid}/cmdline`, "utf8").split("\0").slice(0, -1),
    // The guest's memory is QEMU's, whoever else looks into it.
    memory: () =>
      [vmm.pid, ...parts.map(({ pid }) => pid).filter((pid) => pid !== qemuPid)].reduce(
        (sum, pid) => sum + mappedMemory(pid, (name) => !name.startsWith("/memfd:")),
        0,
      ),
    [Symbol.asyncDispose]: async () => {
      vmm.child.kill("SIGTERM");
      await vmm.ended;
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/**
 * Runs the same command line without the adapter. What only it needs is left out: the start in pause, which nobody ends.
 * The devices are there before the clock starts, so that all of their time is the adapter's.
 */
async function bareBoot(work: string, args: readonly string[], durations: Durations): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const directory = newDirectory(work);
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const devices = new DeviceHost("bench", () => {});
  stack.defer(() => devices.close());
  const sockets: Readonly<Record<string, string>> = {
    vsock: await devices.requestSocket("vsock", { cid: 3, path: join(directory, "vsock.sock") }),
    files: await devices.requestSocket("monitor"),
  };
  const stdio: (number | "pipe" | "ignore")[] = ["ignore", "ignore", "ignore", "pipe", "pipe"];
  const inherit = (before: RegExp, fd: number): void => {
    stdio[descriptor(args, before)] = fd;
  };
  const after = (flag: string): readonly string[] => [args[args.indexOf(flag) + 1] ?? ""];
  inherit(/mem-path=\/proc\/self\/fd\//, await devices.requestFile("memory", { bytes: 256 << 20 }));
  stdio[descriptor(after("-kernel"), /^\/proc\/self\/fd\//)] = openSync(join(guest, "vmlinux"), "r");
  stdio[descriptor(after("-initrd"), /^\/proc\/self\/fd\//)] = openSync(join(guest, "initramfs.img"), "r");
  inherit(/"resize","filename":"\/dev\/fdset\//, await devices.requestFile("scratch", {}));
  inherit(/"file-scratch-0","filename":"\/dev\/fdset\//, openSync(join(directory, "scratch.img"), "r+"));
  stack.defer(() => {
    for (const fd of stdio) if (typeof fd === "number") closeSync(fd);
  });
  const [program = "", ...same] = args
    .filter((argument) => argument !== "-S")
    .map((argument) =>
      argument.replace(
        /^(socket,id=(\w+),path=)[^,]+/,
        (all, before, id) => `${before}${sockets[id] ?? all}`,
      ),
    );
  await devices.request("connect", { uid: process.geteuid?.() ?? 0 });
  const { called } = await firstCall(directory);
  await timed(durations.called, async () => {
    const begun = performance.now();
    const child = spawn(program, same, { stdio });
    stack.defer(async () => {
      child.kill("SIGKILL");
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    });
    const ended = once(child, "exit").then(([status]) => {
      throw new Error(`${program} ended with status ${status}`);
    });
    ended.catch(() => {});
    const control = child.stdio[controlFd];
    if (!(control instanceof Duplex)) throw new Error(`${program} cannot be started`);
    await Promise.race([isRunning(control), ended]);
    durations.running.push(performance.now() - begun);
    await Promise.race([called, ended]);
  });
}

/** Resolves when QEMU says so, at once when asked: it answers when it has built the machine and started it. */
async function isRunning(control: Duplex): Promise<void> {
  control.on("error", () => {});
  control.write('{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n');
  let said = "";
  for await (const chunk of control.iterator({ destroyOnReturn: false })) {
    said += String(chunk);
    if (/"running": true/.test(said)) return;
  }
  throw new Error(`QEMU does not run: ${said}`);
}

/** Boots in turns with and without the adapter, then measures memory with ten machines running. */
export async function adapterCost(work: string, rounds: number): Promise<readonly Figure[]> {
  const [adapter, bare] = [new Durations(), new Durations()];
  const byAdapter = async (): Promise<readonly string[]> => {
    await using machine = await boot(work, adapter);
    return machine.args;
  };
  // The first does not count: caches are warm after it.
  const args = await byAdapter();
  adapter.clear();
  for (let round = 0; round < rounds; round++) {
    // Neither always comes second.
    if (round % 2 === 0) await byAdapter();
    await bareBoot(work, args, bare);
    if (round % 2 === 1) await byAdapter();
  }
  await using running = new AsyncDisposableStack();
  const memory: (() => number)[] = [];
  for (let n = 0; n < machines; n++) memory.push(running.use(await boot(work, new Durations())).memory);
  const sizes = memory.map((measure) => measure());
  return [
    {
      name: "boot by firecracker-qemu, to the guest's call",
      unit: "ms",
      value: median(adapter.called),
      samples: adapter.called,
      peer: { name: "bare QEMU", value: median(bare.called) },
    },
    {
      // From there on both do the same. The quickest of each: whatever else the host does only adds to it.
      name: "added by firecracker-qemu until the guest runs",
      unit: "ms",
      value: Math.min(...adapter.running) - Math.min(...bare.running),
      samples: adapter.running,
      goal: 250,
    },
    {
      name: `firecracker-qemu without its QEMU, ${machines} running`,
      unit: "MiB",
      value: sizes.reduce((sum, size) => sum + size, 0) / machines,
      samples: sizes,
      goal: 60,
    },
  ];
}
