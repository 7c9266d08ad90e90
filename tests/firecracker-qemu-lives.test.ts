/**
 * A hundred lives of firecracker-qemu, ended in every way at every point, leave no process, file, tap, socket or cgroup. (Of
 * Firecracker itself its API socket and its vsock socket stay.)
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { diffSnapshots, formatDiff, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { descendantsOf, isAlive, type Process } from "./support/process-tree.ts";
import { callApi, startVmm, type Vmm } from "./support/vmm-process.ts";

const program = join(import.meta.dirname, "../bin/firecracker-qemu");
const kernel = join(import.meta.dirname, "../.cache/guest/vmlinux");
const deathMs = 10_000;

/** Moments are random: TEST_SEED=N brings a run back. */
const seed = Number(process.env["TEST_SEED"] ?? Date.now() % 1_000_000);
let state = seed;
function random(limit: number): number {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  return Math.floor((state / 2 ** 32) * limit);
}

/** Looks until nothing is found, for at most `deathMs`; the last that was found. */
async function lastOf<T>(look: () => readonly T[]): Promise<readonly T[]> {
  const end = performance.now() + deathMs;
  for (;;) {
    const found = look();
    if (found.length === 0 || performance.now() > end) return found;
    await delay(10);
  }
}

type Life = {
  readonly directory: string;
  readonly vmm: Vmm;
  readonly tap: string;
  /** What the VMM had started when it was about to die */
  last: readonly Process[];
};
type Way = {
  readonly count: number;
  /** Ends the life or makes it end. */
  readonly end: (life: Life) => Promise<void>;
  /** What it has to end with */
  readonly status: number | NodeJS.Signals;
  /** Whether it is started by `--config-file` */
  readonly hasConfigFile?: true;
};

async function put(life: Life, path: string, body: unknown): Promise<void> {
  const answer = await callApi(life.vmm.socket, "PUT", path, body);
  assert.equal(answer.status, 204, `PUT ${path}: ${answer.body}`);
}

/** Everything a machine can have, but no root: its kernel panics, and resets the machine. By the keys of a config file. */
function configuration(directory: string, tap: string) {
  const drive = (id: string, is_read_only: boolean) => {
    const path_on_host = join(directory, `${id}.img`);
    writeFileSync(path_on_host, "");
    truncateSync(path_on_host, 1 << 20);
    return { drive_id: id, path_on_host, is_root_device: false, is_read_only };
  };
  return {
    "machine-config": { vcpu_count: 1, mem_size_mib: 128 },
    "boot-source": { kernel_image_path: kernel, boot_args: "panic=-1 reboot=k quiet" },
    drives: [drive("a", false), drive("b", true)],
    "network-interfaces": [{ iface_id: "eth0", host_dev_name: tap }],
    vsock: { guest_cid: 3, uds_path: join(directory, "vsock.sock") },
    entropy: {},
    balloon: { amount_mib: 0, deflate_on_oom: true },
  };
}

async function configure(life: Life): Promise<void> {
  await life.vmm.ready;
  for (const [key, value] of Object.entries(configuration(life.directory, life.tap))) {
    if (!Array.isArray(value)) await put(life, `/${key}`, value);
    else for (const one of value) await put(life, `/${key}/${one.drive_id ?? one.iface_id}`, one);
  }
}

const start = (life: Life): Promise<void> => put(life, "/actions", { action_type: "InstanceStart" });
const killedBy = (signal: NodeJS.Signals) => (life: Life) => {
  life.last = descendantsOf(life.vmm.pid);
  life.vmm.child.kill(signal);
};

/** Kills one of the processes that the VMM has started. */
function killPart(life: Life, name: string): void {
  life.last = descendantsOf(life.vmm.pid);
  const parts = life.last.filter(({ command }) => command.includes(name));
  assert.equal(parts.length, 1, `${name}: ${JSON.stringify(life.last)}`);
  for (const { pid } of parts) process.kill(pid, "SIGKILL");
}

const early =
  (signal: NodeJS.Signals, withinMs = 300) =>
  async (life: Life) => {
    await delay(random(withinMs));
    killedBy(signal)(life);
  };
const configured = (signal: NodeJS.Signals) => async (life: Life) => {
  await configure(life);
  killedBy(signal)(life);
};
const starting = (signal: NodeJS.Signals) => async (life: Life) => {
  await configure(life);
  const answer = start(life).catch(() => {});
  await delay(random(400));
  killedBy(signal)(life);
  await answer;
};
const running = (signal: NodeJS.Signals) => async (life: Life) => {
  await configure(life);
  await start(life);
  await delay(random(300));
  killedBy(signal)(life);
};
const started = (then: (life: Life) => void) => async (life: Life) => {
  await configure(life);
  await start(life);
  then(life);
};

const ways: Readonly<Record<string, Way>> = {
  "SIGKILL while it starts from a file": {
    count: 15,
    end: early("SIGKILL", 600),
    status: "SIGKILL",
    hasConfigFile: true,
  },
  "SIGKILL while it starts": { count: 10, end: early("SIGKILL"), status: "SIGKILL" },
  "SIGTERM while it starts": { count: 10, end: early("SIGTERM"), status: "SIGTERM" },
  "SIGKILL when configured": { count: 10, end: configured("SIGKILL"), status: "SIGKILL" },
  "SIGTERM when configured": { count: 10, end: configured("SIGTERM"), status: "SIGTERM" },
  "SIGHUP when configured": { count: 5, end: configured("SIGHUP"), status: 156 },
  "SIGKILL during InstanceStart": { count: 15, end: starting("SIGKILL"), status: "SIGKILL" },
  "SIGTERM during InstanceStart": { count: 5, end: starting("SIGTERM"), status: "SIGTERM" },
  "SIGKILL when running": { count: 5, end: running("SIGKILL"), status: "SIGKILL" },
  "SIGTERM when running": { count: 5, end: running("SIGTERM"), status: "SIGTERM" },
  "the guest resets": { count: 4, end: started(() => {}), status: 0 },
  "QEMU is killed": {
    count: 3,
    end: started((life) => killPart(life, "qemu-system-x86_64")),
    status: 1,
  },
  "its devices are killed": {
    count: 3,
    end: started((life) => killPart(life, "microvm-devices")),
    status: 1,
  },
};

const work = mkdtempSync("/tmp/tb-lives-");
const taps = ["tb-lives0", "tb-lives1"];
const cache = join(work, "cache");

function launch(name: string, tap: string, hasConfigFile: boolean): Life {
  const directory = join(work, name);
  const temporary = join(directory, "tmp");
  mkdirSync(temporary, { recursive: true });
  const config = join(temporary, "config.json");
  if (hasConfigFile) writeFileSync(config, JSON.stringify(configuration(directory, tap)));
  const env = { ...process.env, TMPDIR: temporary, XDG_RUNTIME_DIR: temporary, XDG_CACHE_HOME: cache };
  const args = hasConfigFile ? ["--config-file", config] : [];
  return { directory, vmm: startVmm(program, directory, { args, env }), tap, last: [] };
}

/** What is wrong after the end of a life. */
async function remains(life: Life, way: Way): Promise<string[]> {
  const { code, signal, said } = await life.vmm.ended;
  const faults: string[] = [];
  if ((signal ?? code) !== way.status)
    faults.push(`ended with ${signal ?? `status ${code}`}, not ${way.status}: ${said.slice(-500)}`);
  for (const { pid, command } of await lastOf(() => life.last.filter(isAlive)))
    faults.push(`process ${pid} is left: ${command}`);
  // Its devices' process removes the sockets when it notices.
  const mine = new Set(["a.img", "b.img", "tmp", "tmp/config.json"]);
  for (const file of await lastOf(() =>
    readdirSync(life.directory, { encoding: "utf8", recursive: true }).filter((name) => !mine.has(name)),
  ))
    faults.push(`file ${file} is left`);
  return faults;
}

function ip(...args: string[]): void {
  const result = spawnSync("ip", args, { encoding: "utf8" });
  assert.equal(result.status, 0, `ip ${args.join(" ")}: ${result.stderr}`);
}

describe("firecracker-qemu lives and dies", () => {
  let snapshot: Snapshot;
  before(() => {
    for (const tap of taps) ip("tuntap", "add", "dev", tap, "mode", "tap");
    snapshot = snapshotHost([]);
  });
  after(() => {
    for (const tap of taps) ip("link", "delete", tap);
    rmSync(work, { recursive: true, force: true });
  });

  test("a hundred lives leave nothing", async (t) => {
    t.diagnostic(`TEST_SEED=${seed}`);
    const queue = Object.entries(ways).flatMap(([name, way]) =>
      Array.from({ length: way.count }, (_, n) => ({ name: `${name} ${n + 1}`, way })),
    );
    assert.equal(queue.length, 100);
    const faults: string[] = [];
    await Promise.all(
      taps.map(async (tap) => {
        for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
          const { name, way } = next;
          const life = launch(name.replaceAll(" ", "-"), tap, way.hasConfigFile === true);
          try {
            await way.end(life);
          } catch (cause) {
            faults.push(`${name}: ${cause}`);
            life.vmm.child.kill("SIGKILL");
          }
          faults.push(...(await remains(life, way)).map((fault) => `${name}: ${fault}`));
          rmSync(life.directory, { recursive: true });
          // Enough to see what is wrong.
          if (faults.length >= 5) queue.length = 0;
        }
      }),
    );
    assert.deepEqual(faults, []);
    assert.deepEqual(
      readdirSync(cache, { recursive: true }).toSorted(),
      ["tinderbox", "tinderbox/firecracker-qemu.json"],
      "the cache holds what was found out and no temporary file",
    );
    const differences = diffSnapshots(snapshot, snapshotHost([]));
    for (const { kind, added } of differences)
      assert.deepEqual(added, [], `${kind}\n${formatDiff(snapshot, differences)}`);
  });
});
