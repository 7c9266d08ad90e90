/** Pods in microVMs: a VMM with Firecracker's API in the pod's namespace and cgroup, the agent as the guest's PID 1. */
import { randomBytes } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import {
  adoptMachine,
  type ConfigurableMachine,
  dialVsock,
  launchMachine,
  listenVsock,
  type RunningMachine,
} from "@tinderbox/firecracker";
import { TinderboxError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { isAlive, type ProcessIdentity, signalProcess } from "../../base/process-identity.ts";
import { span } from "../../base/trace.ts";
import { UndoStack } from "../../base/undo.ts";
import { writeFileAtomic } from "../../base/write-file.ts";
import { AgentConnection } from "../../rpc/agent-client.ts";
import { AgentSandbox, type Place } from "../agent-sandbox.ts";
import { type SandboxFactory, type SandboxRecord, sandboxGeneration } from "../contract.ts";
import { makePodCgroup, removePodCgroup } from "../pod-cgroup.ts";
import { parseProcessIdentity, sandboxDirectory } from "../sandbox-directory.ts";
import { attachDevices } from "./block-device-drives.ts";
import { boundConsole, consoleTail, openConsole } from "./console-file.ts";
import { DriveSlots, driveId } from "./drive-slots.ts";
import { JailUsers } from "./jail-users.ts";
import { machineConfiguration, placeholderCounts } from "./machine-configuration.ts";
import { MicrovmLogs } from "./microvm-logs.ts";
import { makeScratchDrive } from "./scratch-drive.ts";
import { foundVmmPlace, hostVsock, newVmmPlace, removeVmmPlace, type VmmPlace } from "./vmm-place.ts";
import { VolumeServer, volumePort } from "./volumes.ts";

export type MicrovmSandboxOptions = {
  /** Name of the runtime handler */
  readonly handler: string;
  /** Runtime files: sockets, scratch drives. On a disk with room for the scratch drives */
  readonly stateDir: string;
  /** The VMM's path: Firecracker or firecracker-qemu */
  readonly vmm: string;
  /** Path of Firecracker's jailer. @default the VMM runs without one */
  readonly jailer?: string | undefined;
  /** Shared by all factories of a daemon. @default its own */
  readonly jailUsers?: JailUsers;
  /** Uncompressed ELF kernel */
  readonly kernel: string;
  readonly initrd: string;
  /** Appended to the kernel command line. @default "" */
  readonly bootArgs?: string;
  /** Writable space of a pod, MiB, sparse. @default 10240 */
  readonly scratchMib?: number;
  /** ms from InstanceStart to the guest's call. @default 60_000 */
  readonly bootTimeoutMs?: number;
  readonly log: Logger;
};

const agentPort = 1024;
/** How long a guest may take to write out what belongs on block devices. */
const writeOutMs = 20_000;

/** Tells the guest who it is: after a boot, and again after a snapshot is loaded. */
async function configureGuest(
  control: AgentConnection,
  record: SandboxRecord,
  signal: AbortSignal,
): Promise<void> {
  const { spec } = record;
  await control.call(
    {
      case: "configureGuest",
      value: {
        hostname: spec.hostname,
        interfaces:
          spec.network.kind === "pod"
            ? spec.network.interfaces.map((device) => ({
                name: device.name,
                mac: device.mac,
                addresses: [...device.addresses],
                routes: device.routes.map((route) => ({
                  destination: route.destination,
                  gateway: route.gateway,
                })),
                mtu: device.mtu,
              }))
            : [],
        resolvConf: Buffer.from(spec.resolvConf),
        sysctls: Object.entries(spec.sysctls).map(([name, value]) => ({ name, value })),
        unixTimeNs: BigInt(Date.now()) * 1_000_000n,
        entropy: randomBytes(256),
        scratchDrive: 0,
        podPidNamespace: spec.sharedPidNamespace,
        uidMappings: [...(spec.userNamespace?.uids ?? [])],
        gidMappings: [...(spec.userNamespace?.gids ?? [])],
      },
    },
    signal,
  );
}

/** Makes microVM sandboxes for one runtime handler. */
export function createMicrovmSandboxFactory(options: MicrovmSandboxOptions): SandboxFactory {
  const { stateDir, handler, jailer, log } = options;
  const jailUsers = options.jailUsers ?? new JailUsers();
  const jailing = jailer === undefined ? undefined : { jailer, users: jailUsers };
  const files = { ...options, bootArgs: options.bootArgs ?? "" };

  const readIdentity = async (record: SandboxRecord): Promise<ProcessIdentity | undefined> =>
    parseProcessIdentity(await readFile(join(record.directory, "machine.json"), "utf8").catch(() => ""));

  /** By the record alone: a VMM whose identity was never written down is still in the pod's cgroup. */
  async function clean(record: SandboxRecord): Promise<void> {
    const identity = await readIdentity(record);
    if (identity) signalProcess(identity, "SIGKILL");
    // The volume server, known or not, is in the pod's cgroup as well.
    await removePodCgroup(record.spec.cgroupPath);
    for (let waited = 0; identity && isAlive(identity); waited += 5) {
      if (waited > 10_000)
        throw new TinderboxError("CLEANUP", `the VMM (process ${identity.pid}) does not die`);
      await delay(5);
    }
    await removeVmmPlace(record, jailUsers);
    await rm(record.directory, { recursive: true, force: true });
  }

  async function makeSandbox(
    record: SandboxRecord,
    vmm: VmmPlace,
    machine: RunningMachine,
    control?: AgentConnection,
  ): Promise<{ sandbox: AgentSandbox; slots: DriveSlots; volumes: VolumeServer; logs: MicrovmLogs }> {
    const logs = new MicrovmLogs(record.directory, log);
    const setBacking = (index: number, path: string): Promise<void> =>
      machine.api.patchDrive({ drive_id: driveId(index), path_on_host: path });
    const slots = await DriveSlots.load(record.directory, placeholderCounts, {
      setBacking,
      setDevice: async (index, device, isWritable) =>
        setBacking(index, await vmm.admitDevice(index, device, isWritable)),
      removeDevice: (index) => vmm.removeDevice(index),
      releaseInGuest: async (index) => {
        await (await sandbox.control()).call(
          { case: "releaseDrive", value: { index } },
          AbortSignal.timeout(30_000),
        );
      },
    });
    const { cgroupPath, userNamespace } = record.spec;
    const volumes = await VolumeServer.load({
      directory: record.directory,
      cgroupPath,
      userNamespace,
      admit: () => vmm.admit(volumePort),
    });
    const consolePath = join(record.directory, "console.log");
    const watcher = boundConsole(consolePath);
    const writeOut = async (askAgent: () => Promise<void>): Promise<void> => {
      try {
        await askAgent();
        await machine.wait({ signal: AbortSignal.timeout(writeOutMs) });
      } catch (cause) {
        if (!machine.isAlive) return;
        log.warn("a guest does not shut down; what it has not written to its block devices is lost", {
          sandbox: record.id,
          cause: TinderboxError.from(cause).message,
        });
      }
    };
    const place: Place = {
      kind: "microvm",
      logs,
      dial: (signal) => dialVsock(vmm.vsockPath, agentPort, { signal }),
      acquireRootfs: async (spec) => ({
        lower: { case: "drive", value: await slots.acquireImage(spec.id, spec.image) },
      }),
      acquireVolume: async (containerId, _name, image) => ({
        case: "drive",
        value: await slots.acquireImage(containerId, image),
      }),
      attachDevices: (spec) => attachDevices(record, slots, spec),
      serveVolumes: (spec, signal) => volumes.acquire(spec.id, spec.volumes, signal),
      async releaseRootfs(containerId) {
        await volumes.release(containerId);
        await slots.release(containerId);
      },
      async destroy(askAgent) {
        watcher.close();
        // Its containers have had their time to stop, and what it could still write ends with its scratch drive: but for
        // what is on its way to a block device.
        if (slots.isWriting) await writeOut(askAgent);
        await machine.kill();
        await clean(record);
      },
      async whyGone() {
        watcher.close();
        const said = await consoleTail(consolePath);
        return `the microVM (process ${machine.identity.pid}) ${machine.isAlive ? "does not answer" : "has ended"}${said === "" ? "" : `; its console: ${said.slice(-500)}`}`;
      },
    };
    const sandbox = new AgentSandbox(record, place, control);
    logs.sandbox = sandbox;
    return { sandbox, slots, volumes, logs };
  }

  async function boot(record: SandboxRecord, signal: AbortSignal, undo: UndoStack): Promise<AgentSandbox> {
    const { directory, spec } = record;
    undo.defer(`remove what sandbox ${record.id} left`, () => clean(record));
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const cgroups = await makePodCgroup(spec.cgroupPath);
    await Promise.all([
      makeScratchDrive(stateDir, options.scratchMib ?? 10_240, join(directory, "scratch.ext4"), signal),
      // 512 bytes: smaller than any image, so that every change of a drive is a change of size.
      writeFile(join(directory, "placeholder"), Buffer.alloc(512)),
    ]);
    const vmm = await newVmmPlace(record, options.vmm, cgroups, jailing);
    const console = openConsole(join(directory, "console.log"));
    let configurable: ConfigurableMachine;
    try {
      const launch = { ...vmm.launch, outputFd: console.fd, signal };
      configurable = await span("vmm", "start of its process", () => launchMachine(launch));
    } finally {
      console.close();
    }
    undo.defer("kill the VMM", () => configurable.kill());
    await writeFileAtomic(join(directory, "machine.json"), JSON.stringify(configurable.identity));
    // The guest calls when it is up; the listener is there before it starts.
    await using listener = await listenVsock(hostVsock(record), agentPort);
    await vmm.admit(agentPort);
    const configuration = machineConfiguration(record, vmm.vsockPath, files);
    await span("vmm", "configuration", () => configurable.configure(configuration, { signal }));
    const machine = await span("vmm", "InstanceStart", () => configurable.start({ signal }));
    const milliseconds = options.bootTimeoutMs ?? 60_000;
    const booted = AbortSignal.any([signal, AbortSignal.timeout(milliseconds)]);
    let socket: Awaited<ReturnType<typeof listener.accept>>;
    try {
      const called = listener.accept(booted);
      socket = await span("vmm", "boot of the guest, until it calls", () => machine.whileAlive(called));
    } catch (cause) {
      signal.throwIfAborted();
      const what = machine.isAlive
        ? `the guest did not call in ${milliseconds} ms`
        : "the VMM ended while the guest booted";
      throw new TinderboxError(
        "VMM",
        `${what}; its console: ${(await consoleTail(join(directory, "console.log"))) || "(empty)"}`,
        { cause },
      );
    }
    const control = await AgentConnection.open(socket, { signal });
    undo.defer("close the agent's connection", () => control.close());
    // A guest that calls and then says nothing has no more time than one that does not call.
    await configureGuest(control, record, booted);
    const { sandbox } = await makeSandbox(record, vmm, machine, control);
    return sandbox;
  }

  return {
    place: "microvm",
    handler,
    plan: (spec) => {
      if (spec.hostPid || spec.hostIpc || spec.network.kind === "host") {
        throw new TinderboxError(
          "UNSUPPORTED",
          `pod ${spec.id}: a microVM has no part in the host's network, PID or IPC namespace`,
          {
            hint: "Run such a pod with a host runtime handler.",
          },
        );
      }
      return {
        id: spec.id,
        place: "microvm",
        handler,
        directory: sandboxDirectory(stateDir, spec.id),
        generation: sandboxGeneration,
        spec,
      };
    },
    async start(record, signal) {
      const undo = new UndoStack();
      try {
        return await boot(record, signal, undo);
      } catch (cause) {
        const tail = await consoleTail(join(record.directory, "console.log"));
        await undo.unwind().catch((failure) =>
          log.error("cleaning up a failed start", {
            sandbox: record.id,
            cause: TinderboxError.from(failure).message,
          }),
        );
        const error = TinderboxError.from(cause, "VMM");
        if (error.code === "VMM" && tail !== "")
          log.debug("console of a failed start", { sandbox: record.id, console: tail });
        throw error;
      }
    },
    async recover(record) {
      const identity = await readIdentity(record);
      if (!identity || !isAlive(identity)) return undefined;
      try {
        const vmm = await foundVmmPlace(record, jailUsers);
        const machine = await adoptMachine({ identity, ...vmm });
        if (machine.phase !== "running")
          throw new TinderboxError("VMM", `its guest is ${machine.phase}, not running`);
        const { sandbox, slots, volumes, logs } = await makeSandbox(record, vmm, machine);
        const ids = new Set((await sandbox.listContainers()).map((state) => state.id));
        // The guest may still be making one whose maker has died.
        for (const containerId of new Set([...slots.containers, ...volumes.containers]))
          if (!ids.has(containerId)) await sandbox.deleteContainer(containerId);
        await logs.resume(ids);
        return sandbox;
      } catch (cause) {
        log.warn("the microVM lives but cannot be used", {
          sandbox: record.id,
          cause: TinderboxError.from(cause).message,
        });
        return undefined;
      }
    },
    clean,
  };
}
