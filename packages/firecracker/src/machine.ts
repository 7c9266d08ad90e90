/**
 * The life of one VMM process: launch, configure, start, end. What it leaves outside itself (taps, jails, drive
 * files) is its caller's.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { watch } from "node:fs";
import { rm } from "node:fs/promises";
import { createConnection } from "node:net";
import { basename, dirname } from "node:path";
import { FirecrackerClient } from "./api-client.ts";
import type { SerialWire } from "./device-wire.ts";
import { FirecrackerExitedError, FirecrackerLaunchError, FirecrackerTimeoutError } from "./errors.ts";
import type { VmConfigWire } from "./machine-wire.ts";
import { isVmmAlive, signalVmm, type VmmIdentity, vmmIdentity } from "./process-identity.ts";

export type LaunchOptions = {
  /** The VMM: Firecracker or a program with its interface */
  readonly binary: string;
  /** Added after `--api-sock` and `--id` */
  readonly args?: readonly string[];
  /** Must not exist */
  readonly apiSocket: string;
  /** 1..64 letters, digits, `-` */
  readonly id: string;
  /** Put before the VMM's own command line; must end by executing it in the same process */
  readonly spawnPrefix?: readonly string[];
  /** File descriptor for stdout and stderr. A VMM that shall outlive this process needs one: a broken pipe wedges it. @default captured, the last 8 KiB kept */
  readonly outputFd?: number;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Called right after the spawn, before anything is waited for: the place to write the identity down. */
  readonly onSpawn?: (identity: VmmIdentity) => void;
  /** ms until the API socket must answer. @default 30_000 */
  readonly readyTimeoutMs?: number;
  readonly signal?: AbortSignal;
};

export type ExitStatus = { readonly exitCode: number | null; readonly signal: NodeJS.Signals | null };

export type ShutdownDeadlines = {
  /** Asks the guest to end. @default SendCtrlAltDel */
  readonly askGuest?: () => Promise<void>;
  /** ms for the guest's own end. @default 5_000 */
  readonly guestMs?: number;
  /** ms after SIGTERM. @default 1_000 */
  readonly terminateMs?: number;
};

/** All that is set before the start; the serial device is the one thing a config file cannot hold. */
export type MachineConfiguration = VmConfigWire & { readonly serial?: SerialWire };

/** A running VMM process and its API. */
export class Machine implements AsyncDisposable {
  readonly identity: VmmIdentity;
  readonly api: FirecrackerClient;
  readonly #exit: () => Promise<ExitStatus>;
  readonly #tail: () => string;

  constructor(
    identity: VmmIdentity,
    api: FirecrackerClient,
    exit: () => Promise<ExitStatus>,
    tail: () => string,
  ) {
    this.identity = identity;
    this.api = api;
    this.#exit = exit;
    this.#tail = tail;
  }

  /** Makes the pre-boot calls in the order they depend on each other. */
  async configure(config: MachineConfiguration, signal?: AbortSignal): Promise<void> {
    const { api } = this;
    if (config.logger) await api.putLogger(config.logger, signal);
    if (config.metrics) await api.putMetrics(config.metrics, signal);
    if (config.serial) await api.putSerial(config.serial, signal);
    if (config["machine-config"]) await api.putMachineConfig(config["machine-config"], signal);
    if (config["cpu-config"]) await api.putCpuConfig(config["cpu-config"], signal);
    await api.putBootSource(config["boot-source"], signal);
    for (const drive of config.drives) await api.putDrive(drive, signal);
    for (const network of config["network-interfaces"] ?? []) await api.putNetworkInterface(network, signal);
    if (config.vsock) await api.putVsock(config.vsock, signal);
    if (config.entropy) await api.putEntropy(config.entropy, signal);
    if (config.balloon) await api.putBalloon(config.balloon, signal);
    if (config["mmds-config"]) await api.putMmdsConfig(config["mmds-config"], signal);
  }

  /** InstanceStart. @throws {FirecrackerApiError} FC_API */
  async start(signal?: AbortSignal): Promise<void> {
    await this.api.action("InstanceStart", signal);
  }

  /** How it ended; for a machine found again, both fields are null. */
  wait(): Promise<ExitStatus> {
    return this.#exit();
  }

  get isAlive(): boolean {
    return isVmmAlive(this.identity);
  }

  /** `promise`, or FC_EXITED if the VMM ends first. */
  async whileAlive<T>(promise: Promise<T>): Promise<T> {
    const ended = this.#exit().then(({ exitCode, signal }): never => {
      throw new FirecrackerExitedError(exitCode, signal, this.#tail());
    });
    return await Promise.race([promise, ended]);
  }

  /** SIGKILL; resolves when the process is gone. */
  async kill(): Promise<void> {
    signalVmm(this.identity, "SIGKILL");
    await this.#exit();
    this.api[Symbol.dispose]();
  }

  /** Asks the guest, then SIGTERM, then SIGKILL; resolves when the process is gone. */
  async shutdown(deadlines: ShutdownDeadlines = {}): Promise<ExitStatus> {
    const ask = deadlines.askGuest ?? (() => this.api.action("SendCtrlAltDel", AbortSignal.timeout(1_000)));
    const within = async (ms: number): Promise<boolean> => {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<false>((resolve) => {
        timer = setTimeout(resolve, ms, false);
      });
      const ended = await Promise.race([this.#exit().then(() => true as const), late]);
      clearTimeout(timer);
      return ended;
    };
    if (this.isAlive) {
      // A guest that cannot be asked is not waited for.
      const asked = await Promise.race([
        ask().then(
          () => true,
          () => false,
        ),
        this.#exit().then(() => true),
      ]);
      if (!asked || !(await within(deadlines.guestMs ?? 5_000))) {
        signalVmm(this.identity, "SIGTERM");
        if (!(await within(deadlines.terminateMs ?? 1_000))) await this.kill();
      }
    }
    this.api[Symbol.dispose]();
    return this.#exit();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

/** Resolves when something accepts on `path`; woken by the directory's events, so there is no interval to lose time in. */
async function socketReady(path: string, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    let trying = false;
    let again = false;
    const watcher = watch(dirname(path), (_event, name) => {
      if (name === null || name === basename(path)) attempt();
    });
    const onAbort = (): void => finish(() => reject(signal.reason));
    const finish = (act: () => void): void => {
      watcher.close();
      clearTimeout(retry);
      signal.removeEventListener("abort", onAbort);
      act();
    };
    let retry: NodeJS.Timeout | undefined;
    const attempt = (): void => {
      again = true;
      if (trying || signal.aborted) return;
      trying = true;
      again = false;
      const socket = createConnection(path);
      socket.once("connect", () => {
        socket.destroy();
        finish(resolve);
      });
      socket.once("error", (cause: NodeJS.ErrnoException) => {
        trying = false;
        // Between bind() and listen() the file is there and refuses; nothing announces listen().
        if (cause.code === "ECONNREFUSED") retry = setTimeout(attempt, 1);
        else if (again) attempt();
      });
    };
    watcher.on("error", (cause) => finish(() => reject(cause)));
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) return onAbort();
    attempt();
  });
}

/**
 * Starts a VMM and waits until its API answers.
 * @throws {FirecrackerLaunchError} FC_LAUNCH when it cannot be started
 * @throws {FirecrackerExitedError} FC_EXITED when it ends before it answers
 * @throws {FirecrackerTimeoutError} FC_TIMEOUT
 */
export async function launchMachine(options: LaunchOptions): Promise<Machine> {
  options.signal?.throwIfAborted();
  const argv = [
    ...(options.spawnPrefix ?? []),
    options.binary,
    "--api-sock",
    options.apiSocket,
    "--id",
    options.id,
    ...(options.args ?? []),
  ];
  const [file = options.binary, ...args] = argv;
  const output = options.outputFd ?? "pipe";
  // A session of its own: a hang-up of the caller's terminal must not end the VMM.
  const child = spawn(file, args, {
    stdio: ["ignore", output, output],
    detached: true,
    env: options.env,
    cwd: options.cwd,
  });
  let tail = Buffer.alloc(0);
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on("data", (chunk: Buffer) => {
      tail = Buffer.concat([tail, chunk]).subarray(-8192);
    });
  }
  const exit = new Promise<ExitStatus>((resolve) => {
    child.once(child.stdout ? "close" : "exit", (exitCode: number | null, signal: NodeJS.Signals | null) =>
      resolve({ exitCode, signal }),
    );
  });
  try {
    await once(child, "spawn");
  } catch (cause) {
    throw new FirecrackerLaunchError(
      `${file}: ${cause instanceof Error ? cause.message : String(cause)}`,
      cause,
    );
  }
  child.on("error", () => {});
  child.unref();
  const identity = child.pid === undefined ? undefined : vmmIdentity(child.pid);
  const text = (): string => tail.toString("utf8");
  if (identity === undefined) {
    const { exitCode, signal } = await exit;
    throw new FirecrackerExitedError(exitCode, signal, text());
  }
  const machine = new Machine(identity, new FirecrackerClient(options.apiSocket), () => exit, text);
  const milliseconds = options.readyTimeoutMs ?? 30_000;
  const timeout = AbortSignal.timeout(milliseconds);
  const settled = new AbortController();
  try {
    options.onSpawn?.(identity);
    const stop = AbortSignal.any([timeout, settled.signal, ...(options.signal ? [options.signal] : [])]);
    await machine.whileAlive(socketReady(options.apiSocket, stop));
    return machine;
  } catch (cause) {
    await machine.kill();
    await rm(options.apiSocket, { force: true });
    if (timeout.aborted && !options.signal?.aborted) {
      throw new FirecrackerTimeoutError(
        `${options.binary}: no API at ${options.apiSocket} after ${milliseconds} ms: ${text().trim()}`,
      );
    }
    throw cause;
  } finally {
    settled.abort();
  }
}
