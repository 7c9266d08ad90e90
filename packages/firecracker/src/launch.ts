/** Starting a VMM: written down, spawned, answering. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { FirecrackerClient } from "./api-client.ts";
import { configFileContent, type MachineConfiguration } from "./configuration.ts";
import {
  FirecrackerArgumentError,
  FirecrackerExitedError,
  FirecrackerLaunchError,
  FirecrackerTimeoutError,
} from "./errors.ts";
import type { MachineJournal } from "./journal.ts";
import { type Leftover, removeLeftovers } from "./leftovers.ts";
import { ConfigurableMachine, RunningMachine } from "./machine.ts";
import { exists, MachineCore } from "./machine-core.ts";
import { signalVmm, type VmmIdentity, vmmIdentity } from "./process-identity.ts";
import { socketReady } from "./socket-ready.ts";
import { type DirectSpawnerOptions, directSpawner, type VmmSpawner } from "./spawner.ts";
import { checkInstanceId, type VmmFlags, vmmArguments } from "./vmm-arguments.ts";
import { childProcess, type ExitStatus, exitedError, foundProcess, type VmmProcess } from "./vmm-process.ts";
import { readVmmVersion } from "./vmm-version.ts";

/** How a VMM is run and followed, however it is spawned. */
export type ProcessOptions = {
  /** Options of the VMM's command line, paths as host paths */
  readonly flags?: VmmFlags;
  /** More arguments, as they are */
  readonly args?: readonly string[];
  /** File descriptor for stdout and stderr. A VMM that shall outlive this process needs one: a broken pipe wedges it. @default captured */
  readonly outputFd?: number;
  /** Whether `serialInput` shall be the guest's serial input. @default false */
  readonly serialInput?: boolean;
  /** Where the machine is written down, to be found after our own end */
  readonly journal?: MachineJournal;
  /** Called right after the spawn, before anything is waited for */
  readonly onSpawn?: (identity: VmmIdentity) => void;
  /** More to be removed after its end, in the order it was made */
  readonly leftovers?: readonly Leftover[];
  /** ms until the API must answer. @default 30_000 */
  readonly readyTimeoutMs?: number;
  /** ms for one API call; snapshot calls have none. @default 30_000 */
  readonly callTimeoutMs?: number;
  /** Ends the launch, not the machine once it is there */
  readonly signal?: AbortSignal;
};

/** What to start: a plain child process, or what a spawner starts (a jail). */
export type LaunchOptions = ProcessOptions &
  (
    | DirectSpawnerOptions
    | {
        /** Used for one launch */
        readonly spawner: VmmSpawner;
      }
  );

/** @internal */
export function spawnerOf(options: LaunchOptions): VmmSpawner {
  return "spawner" in options ? options.spawner : directSpawner(options);
}

/**
 * Starts a VMM and waits until its API answers.
 * @throws {FirecrackerLaunchError} FC_LAUNCH when it cannot be started
 * @throws {FirecrackerExitedError} FC_EXITED when it ends before it answers
 * @throws {FirecrackerTimeoutError} FC_TIMEOUT
 */
export async function launchMachine(options: LaunchOptions): Promise<ConfigurableMachine> {
  return new ConfigurableMachine(await launchCore(options, spawnerOf(options)));
}

/**
 * Starts a VMM with a config file (mode 0600, removed with the machine): the guest boots at once, without API calls.
 * @throws as `launchMachine`; a configuration that the VMM refuses is FC_EXITED with what it said
 */
export async function launchFromConfigFile(
  options: LaunchOptions & {
    readonly configuration: MachineConfiguration;
    /** Host path to write it to; the metadata goes beside it, with `.mmds` behind. @default the API socket's with `.config.json` behind */
    readonly configFile?: string;
  },
): Promise<RunningMachine> {
  const spawner = spawnerOf(options);
  const { configuration } = options;
  const configFile = options.configFile ?? `${spawner.apiSocket}.config.json`;
  const version = await readVmmVersion(spawner.binary, options.signal);
  const vsockPath = configuration.vsock?.uds_path;
  const core = await launchCore(options, spawner, {
    vmmVersion: version,
    vsockPath,
    files: [configFile, `${configFile}.mmds`, ...(vsockPath === undefined ? [] : [vsockPath])],
    async makeArguments() {
      const place = async (path: string, content: string): Promise<string> => {
        await writeFile(path, content, { mode: 0o600, flag: "wx" });
        return spawner.toVmmPath(path, "read");
      };
      const content = await configFileContent(configuration, version, (path, use) =>
        spawner.toVmmPath(path, use),
      );
      const args = ["--config-file", await place(configFile, content)];
      if (configuration.mmds)
        args.push("--metadata", await place(`${configFile}.mmds`, JSON.stringify(configuration.mmds)));
      return args;
    },
  });
  try {
    await core.whileAlive(core.client.phase({ signal: options.signal }));
    return new RunningMachine(core);
  } catch (cause) {
    await core.kill();
    throw cause;
  }
}

type LaunchExtras = {
  /** What `--version` told */
  readonly vmmVersion?: string;
  /** Host path of its vsock's socket */
  readonly vsockPath?: string | undefined;
  /** Files that must not exist yet and are removed with the machine */
  readonly files?: readonly string[];
  /** Makes files and gives the arguments for them, once what they leave is written down */
  readonly makeArguments?: () => Promise<string[]>;
};

/** Flags as arguments, with the paths that the VMM sees. */
async function flagArguments(flags: VmmFlags, spawner: VmmSpawner): Promise<string[]> {
  const { seccompFilter, logPath, metricsPath } = flags;
  return vmmArguments({
    ...flags,
    ...(seccompFilter !== undefined && { seccompFilter: await spawner.toVmmPath(seccompFilter, "read") }),
    ...(logPath !== undefined && { logPath: await spawner.toVmmPath(logPath, "output") }),
    ...(metricsPath !== undefined && { metricsPath: await spawner.toVmmPath(metricsPath, "output") }),
  });
}

/** Spawns, and finds the VMM's process among what was spawned. */
async function spawnVmm(
  options: ProcessOptions,
  spawner: VmmSpawner,
  args: readonly string[],
  signal: AbortSignal,
): Promise<VmmProcess> {
  const command = spawner.command(args);
  const output = options.outputFd ?? "pipe";
  // A session of its own: a hang-up of the caller's terminal must not end the VMM.
  const child = spawn(command.file, command.args, {
    stdio: [options.serialInput ? "pipe" : "ignore", output, output],
    detached: true,
    env: command.env,
    cwd: command.cwd,
  });
  try {
    await once(child, "spawn");
  } catch (cause) {
    throw new FirecrackerLaunchError(
      `${command.file}: ${cause instanceof Error ? cause.message : cause}`,
      cause,
    );
  }
  // Set once it is spawned; gone from /proc when it has ended already, and then the start time says so.
  const pid = child.pid ?? 0;
  const spawned = childProcess(child, vmmIdentity(pid) ?? { pid, startTime: "ended" });
  if (spawner.findVmm === undefined) return spawned;
  const exited = new Promise<ExitStatus>((resolve) => spawned.onExit(resolve));
  try {
    return foundProcess(await spawner.findVmm({ pid, exited }, signal), spawner.apiSocket, spawned);
  } catch (cause) {
    signalVmm(spawned.identity, "SIGKILL");
    // What the jailer said of it is in the outputs.
    throw cause instanceof FirecrackerExitedError ? exitedError(spawned, cause, cause) : cause;
  }
}

async function launchCore(
  options: ProcessOptions,
  spawner: VmmSpawner,
  extras: LaunchExtras = {},
): Promise<MachineCore> {
  const { signal, journal } = options;
  signal?.throwIfAborted();
  checkInstanceId(spawner.id);
  if (Buffer.byteLength(spawner.apiSocket) > 107)
    throw new FirecrackerArgumentError("apiSocket", `${spawner.apiSocket} is longer than 107 bytes`);
  // What is there belongs to another machine, and would be removed with this one.
  for (const path of [spawner.apiSocket, ...(extras.files ?? [])])
    if (await exists(path)) throw new FirecrackerLaunchError(`${path} exists already`);
  const leftovers: Leftover[] = [
    ...(options.leftovers ?? []),
    ...spawner.leftovers(),
    ...(extras.files ?? []).map((path) => ({ kind: "file", path }) as const),
  ];
  const entry = await journal?.begin({
    id: spawner.id,
    apiSocket: spawner.apiSocket,
    commandMark: spawner.commandMark ?? ["--id", spawner.id],
    rootDirectory: spawner.rootDirectory,
    vsockPath: extras.vsockPath,
    leftovers,
  });
  const milliseconds = options.readyTimeoutMs ?? 30_000;
  const settled = new AbortController();
  const timeout = AbortSignal.timeout(milliseconds);
  const stop = AbortSignal.any([timeout, settled.signal, ...(signal ? [signal] : [])]);
  let core: MachineCore | undefined;
  try {
    await spawner.prepare?.(stop);
    const args = [
      ...(await flagArguments(options.flags ?? {}, spawner)),
      ...(options.args ?? []),
      ...((await extras.makeArguments?.()) ?? []),
    ];
    const vmm = await spawnVmm(options, spawner, args, stop);
    core = new MachineCore({
      id: spawner.id,
      process: vmm,
      spawner,
      leftovers,
      journal: entry,
      vsockPath: extras.vsockPath,
      connect: (hooks) =>
        new FirecrackerClient(spawner.apiSocket, {
          ...hooks,
          timeoutMs: options.callTimeoutMs,
          maxBodyBytes: options.flags?.httpApiMaxPayloadBytes,
          vmmVersion: extras.vmmVersion,
        }),
    });
    options.onSpawn?.(vmm.identity);
    await core.whileAlive(
      Promise.all([entry?.update({ identity: vmm.identity }), socketReady(spawner.apiSocket, stop)]),
    );
    return core;
  } catch (cause) {
    const late =
      timeout.aborted && !signal?.aborted
        ? new FirecrackerTimeoutError(
            `${spawner.binary}: no API at ${spawner.apiSocket} after ${milliseconds} ms`,
            cause,
          )
        : cause;
    try {
      if (core) await core.kill();
      else {
        await removeLeftovers(leftovers);
        await entry?.remove();
      }
    } catch (failure) {
      throw new FirecrackerLaunchError(`the launch failed and cannot be undone: ${String(failure)}`, late);
    }
    throw late;
  } finally {
    settled.abort();
  }
}
