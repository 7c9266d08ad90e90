/** Pods on the host: an agent of their own on a unix socket, in the pod's namespaces and cgroup. */
import { once } from "node:events";
import { existsSync } from "node:fs";
import { chmod, chown, mkdir, readFile, rm } from "node:fs/promises";
import { createConnection } from "node:net";
import { dirname, join } from "node:path";
import type { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { TinderboxError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { nativeProgram } from "../../base/paths.ts";
import { isAlive, type ProcessIdentity, signalProcess } from "../../base/process-identity.ts";
import { writeFileAtomic } from "../../base/write-file.ts";
import { run, tryRun } from "../../native/run.ts";
import { AgentSandbox, type Place } from "../agent-sandbox.ts";
import { type SandboxFactory, type SandboxRecord, type SandboxSpec, sandboxGeneration } from "../contract.ts";
import { makePodCgroup, removePodCgroup } from "../pod-cgroup.ts";
import { parseProcessIdentity, sandboxDirectory, sharedMemoryPath } from "../sandbox-directory.ts";
import { ImageMounts } from "./image-mounts.ts";

export type HostSandboxOptions = {
  /** Name of the runtime handler */
  readonly handler: string;
  /** Runtime files: sockets, mounts */
  readonly stateDir: string;
  /** Containers' writable layers; a file system that overlay takes as an upper. @default inside the sandbox's directory */
  readonly writableDir?: string;
  readonly log: Logger;
};

async function connectUnix(path: string, signal: AbortSignal): Promise<Duplex> {
  const socket = createConnection(path);
  socket.on("error", () => {});
  await once(socket, "connect", { signal });
  return socket;
}

function agentArguments(record: SandboxRecord, cgroups: readonly string[]): string[] {
  const { spec, directory } = record;
  const args = ["agent", "--socket", join(directory, "agent.sock"), "--dir", join(directory, "agent")];
  // A pod in the host's network keeps the host's name too, as Kubernetes has it.
  if (spec.network.kind === "pod")
    args.push("--netns", spec.network.netnsPath, "--unshare-uts", "--hostname", spec.hostname);
  if (!spec.hostIpc) args.push("--unshare-ipc");
  if (spec.userNamespace) args.push("--pod-userns");
  if (spec.sharedPidNamespace && !spec.hostPid) args.push("--pod-pid-namespace");
  for (const directory of cgroups) args.push("--cgroup", directory);
  for (const [name, value] of Object.entries(spec.sysctls)) args.push("--sysctl", `${name}=${value}`);
  return args;
}

/** As Kubernetes has it: 64 MiB, which count where they are written, and every container of the pod sees the same. */
async function mountSharedMemory(record: SandboxRecord): Promise<void> {
  const path = sharedMemoryPath(record);
  if (record.spec.hostIpc || path === undefined) return;
  await mkdir(path);
  await run("mount", ["-t", "tmpfs", "-o", "nosuid,nodev,noexec,mode=1777,size=64m", "shm", path]);
}

/** Makes host sandboxes for one runtime handler. */
export function createHostSandboxFactory(options: HostSandboxOptions): SandboxFactory {
  const { stateDir, handler } = options;
  const mounts = new ImageMounts(stateDir);
  const writableOf = (record: SandboxRecord): string =>
    options.writableDir === undefined
      ? join(record.directory, "writable")
      : join(options.writableDir, record.directory.slice(record.directory.lastIndexOf("/") + 1));

  const readIdentity = async (record: SandboxRecord): Promise<ProcessIdentity | undefined> =>
    parseProcessIdentity(await readFile(join(record.directory, "agent.json"), "utf8").catch(() => ""));

  async function clean(record: SandboxRecord): Promise<void> {
    const identity = await readIdentity(record);
    if (identity) signalProcess(identity, "SIGKILL");
    await removePodCgroup(record.spec.cgroupPath);
    if (!existsSync(record.directory))
      return void (await rm(writableOf(record), { recursive: true, force: true }));
    // Container root file systems may still be mounted when their agent was killed.
    const below = [`${record.directory}/`, `${writableOf(record)}/`];
    const targets = (await readFile("/proc/self/mountinfo", "utf8"))
      .split("\n")
      .map((line) => line.split(" ")[4] ?? "")
      .filter((target) => below.some((prefix) => target.startsWith(prefix)));
    for (const target of targets.reverse()) await run(nativeProgram, ["umount", target]);
    await mounts.release(record.directory);
    await rm(writableOf(record), { recursive: true, force: true });
    await rm(record.directory, { recursive: true, force: true });
  }

  function placeOf(record: SandboxRecord, identity: ProcessIdentity): Place {
    const upper = (containerId: string): string => join(writableOf(record), containerId);
    return {
      kind: "host",
      dial: (signal) => connectUnix(join(record.directory, "agent.sock"), signal),
      async acquireRootfs(spec, signal) {
        const directory = await mounts.acquire(record.directory, spec.id, spec.image, signal);
        await mkdir(upper(spec.id), { recursive: true, mode: 0o700 });
        return { lower: { case: "directory", value: directory }, upperDirectory: upper(spec.id) };
      },
      acquireVolume: async (containerId, name, image, signal) => ({
        case: "path",
        value: await mounts.acquire(record.directory, `${containerId}/${name}`, image, signal),
      }),
      async releaseRootfs(containerId) {
        await rm(upper(containerId), { recursive: true, force: true });
        await mounts.release(record.directory, containerId);
      },
      containerFiles: (id) => ({
        runtime: record.spec.runtime,
        runtimeRoot: join(record.directory, "agent", "oci"),
        bundle: join(record.directory, "agent", "containers", id),
        upper: upper(id),
      }),
      async destroy(askAgent) {
        await askAgent().catch(() => {});
        // It answers before it has ended; killing it a little late costs nothing, too early would cut its cleaning up.
        for (let waited = 0; waited < 2_000 && isAlive(identity); waited += 5) await delay(5);
        await clean(record);
      },
      whyGone: async () =>
        isAlive(identity)
          ? `the agent (process ${identity.pid}) does not answer`
          : `the agent (process ${identity.pid}) has ended`,
    };
  }

  return {
    place: "host",
    handler,
    plan: (spec: SandboxSpec): SandboxRecord => ({
      id: spec.id,
      place: "host",
      handler,
      directory: sandboxDirectory(stateDir, spec.id),
      generation: sandboxGeneration,
      spec,
    }),
    async start(record, signal) {
      try {
        // The root of a pod's user namespace must get to its root file systems, and nobody else.
        await mkdir(dirname(record.directory), { recursive: true, mode: 0o711 });
        await mkdir(record.directory, { recursive: true, mode: 0o700 });
        await mkdir(join(record.directory, "agent"), { recursive: true, mode: 0o711 });
        const root = record.spec.userNamespace?.gids.find(({ inside }) => inside === 0);
        if (root) {
          await chown(record.directory, 0, root.outside);
          await chmod(record.directory, 0o710);
        }
        const [cgroups] = await Promise.all([
          makePodCgroup(record.spec.cgroupPath),
          mountSharedMemory(record),
        ]);
        const result = await tryRun(nativeProgram, agentArguments(record, cgroups), {
          signal,
          timeoutMs: 30_000,
        });
        const identity = parseProcessIdentity(result.stdout);
        if (result.code !== 0 || !identity) {
          throw new TinderboxError(
            "AGENT",
            `the agent of sandbox ${record.id} did not start: exit status ${result.code}: ${result.stderr.trim().slice(-2000)}`,
          );
        }
        await writeFileAtomic(join(record.directory, "agent.json"), result.stdout);
        const sandbox = new AgentSandbox(record, placeOf(record, identity));
        await sandbox.control();
        return sandbox;
      } catch (cause) {
        await clean(record).catch((failure) =>
          options.log.error("cleaning up a failed start", {
            sandbox: record.id,
            cause: TinderboxError.from(failure).message,
          }),
        );
        throw TinderboxError.from(cause, "AGENT");
      }
    },
    async recover(record) {
      const identity = await readIdentity(record);
      if (!identity || !isAlive(identity)) return undefined;
      const sandbox = new AgentSandbox(record, placeOf(record, identity));
      try {
        await sandbox.control();
        return sandbox;
      } catch (cause) {
        options.log.warn("the agent lives but does not answer", {
          sandbox: record.id,
          cause: TinderboxError.from(cause).message,
        });
        return undefined;
      }
    },
    clean,
  };
}
