/**
 * The life of one VMM process, a type for each phase: configurable, running, paused. All views of one machine share
 * its process; what a phase does not allow is not on its type.
 */
import type { Duplex, Writable } from "node:stream";
import type { CallOptions, PrebootApi, RunningApi } from "./api-client.ts";
import { applyConfiguration, type MachineConfiguration } from "./configuration.ts";
import { FirecrackerStateError } from "./errors.ts";
import type { RecordStream } from "./line-fifo.ts";
import { type LogRecord, openLogFifo } from "./log-lines.ts";
import type { MachineCore } from "./machine-core.ts";
import { openMetricsFifo } from "./metrics.ts";
import type { MetricsRecordWire } from "./metrics-wire.ts";
import type { OutputLog } from "./output-log.ts";
import type { VmmIdentity } from "./process-identity.ts";
import type { ShutdownOptions } from "./shutdown.ts";
import type { SnapshotLoadOptions, SnapshotOptions } from "./snapshot-options.ts";
import type { ExitStatus } from "./vmm-process.ts";
import { type DialOptions, dialVsock } from "./vsock.ts";

/** What a machine of any phase is: a process to be watched and ended. */
export abstract class Machine implements AsyncDisposable {
  /** Which of the three types it is */
  abstract readonly phase: "configurable" | "running" | "paused";
  /** @internal */
  protected readonly core: MachineCore;

  /** @internal */
  constructor(core: MachineCore) {
    this.core = core;
  }

  /** The instance's id */
  get id(): string {
    return this.core.id;
  }
  /** The VMM's pid and start time */
  get identity(): VmmIdentity {
    return this.core.process.identity;
  }
  /** The API's unix socket, as a host path */
  get apiSocket(): string {
    return this.core.client.socketPath;
  }
  /** Whether that very process still runs */
  get isAlive(): boolean {
    return this.core.isAlive;
  }
  /** The guest's serial console, and the log until a log file is set; undefined when it goes to `outputFd`, or was found again */
  get stdout(): OutputLog | undefined {
    return this.core.process.stdout;
  }
  /** The VMM's last words; undefined as `stdout` */
  get stderr(): OutputLog | undefined {
    return this.core.process.stderr;
  }
  /** The serial console's input; undefined without `serialInput` */
  get serialInput(): Writable | undefined {
    return this.core.process.stdin;
  }

  /** How it ended, once all that it left is removed. An abort ends only the waiting. */
  wait(options: { readonly signal?: AbortSignal } = {}): Promise<ExitStatus> {
    return this.core.wait(options.signal);
  }

  /** `promise`, or FC_EXITED if the VMM ends first. @throws {FirecrackerExitedError} FC_EXITED */
  whileAlive<T>(promise: Promise<T>): Promise<T> {
    return this.core.whileAlive(promise);
  }

  /** SIGKILL; resolves when the process is gone and what it left is removed. @throws {FirecrackerTimeoutError} FC_TIMEOUT after 10 s */
  kill(): Promise<void> {
    return this.core.kill();
  }

  /**
   * Asks the guest, then SIGTERM, then SIGKILL, each with its deadline; a guest that is paused or not started is not
   * asked. Callers at the same time share one shutdown, with the options of the first.
   */
  shutdown(options: ShutdownOptions = {}): Promise<ExitStatus> {
    return this.core.shutdown(options);
  }

  /** As `kill`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }
}

/** Options of `openMetrics`. */
export type MetricsOptions = {
  /** Since 1.17. @default false */
  readonly emitId?: boolean;
  /** Told in each record; since 1.17 */
  readonly properties?: Readonly<Record<string, string>>;
  /** Unread records that are kept. @default 1_000 */
  readonly maxRecords?: number;
  /** Gives up */
  readonly signal?: AbortSignal;
};

/** Options of `openLog`. */
export type LogOptions = {
  /** @default "Info" */
  readonly level?: "Error" | "Warning" | "Info" | "Debug" | "Trace" | "Off";
  /** Whether records tell file and line. @default false */
  readonly showOrigin?: boolean;
  /** Only lines of this module path */
  readonly module?: string;
  /** Unread records that are kept. @default 1_000 */
  readonly maxRecords?: number;
  /** Gives up */
  readonly signal?: AbortSignal;
};

/** A VMM whose guest has not been started. */
export class ConfigurableMachine extends Machine {
  /** Tells the type */
  readonly phase = "configurable";

  /** Calls for before the start, and for any time. */
  get api(): PrebootApi {
    return this.core.client;
  }

  /** Makes the API calls for a configuration, in the order they depend on each other. */
  async configure(configuration: MachineConfiguration, options: CallOptions = {}): Promise<void> {
    await applyConfiguration(this.core.client, configuration, options);
  }

  /**
   * Makes a FIFO at a host path, has the VMM write its metrics there and reads them. Removed with the machine. Ask for a
   * line with `api.flushMetrics()`; one comes every 60 s by itself.
   */
  async openMetrics(path: string, options: MetricsOptions = {}): Promise<RecordStream<MetricsRecordWire>> {
    await this.core.addLeftover({ kind: "file", path });
    const metrics = await openMetricsFifo(path, options.maxRecords);
    const { emitId, properties, signal } = options;
    await this.core.client.putMetrics(
      { metrics_path: path, ...(emitId && { emit_id: true }), ...(properties && { properties }) },
      { signal },
    );
    return metrics;
  }

  /** Makes a FIFO at a host path, has the VMM log there and reads it. Removed with the machine. */
  async openLog(path: string, options: LogOptions = {}): Promise<RecordStream<LogRecord>> {
    await this.core.addLeftover({ kind: "file", path });
    const log = await openLogFifo(path, options.maxRecords);
    const { level, module, signal } = options;
    await this.core.client.putLogger(
      {
        log_path: path,
        show_level: true,
        show_log_origin: options.showOrigin === true,
        ...(level && { level }),
        ...(module !== undefined && { module }),
      },
      { signal },
    );
    return log;
  }

  /** InstanceStart. @throws {FirecrackerApiError} FC_API; then this machine can be tried again */
  async start(options: CallOptions = {}): Promise<RunningMachine> {
    await this.core.client.startInstance(options);
    return new RunningMachine(this.core);
  }

  /** Goes on from a snapshot, paused. Nothing but logger, metrics and serial may have been configured. A failure also ends the VMM. */
  async loadSnapshot(snapshot: SnapshotLoadOptions, options: CallOptions = {}): Promise<PausedMachine> {
    await this.core.loadSnapshot(snapshot, options);
    return new PausedMachine(this.core);
  }
}

/** What a started machine can do, running or paused. */
abstract class StartedMachine extends Machine {
  /** Calls for after the start, and for any time. */
  get api(): RunningApi {
    return this.core.client;
  }
}

/** A machine whose guest runs. */
export class RunningMachine extends StartedMachine {
  /** Tells the type */
  readonly phase = "running";

  /**
   * Stops the vCPUs and all devices; the API still works.
   * With 1.16.0 and 1.16.1 a pause without a snapshot before `resume` blocks connections to the guest's vsock for ever.
   */
  async pause(options: CallOptions = {}): Promise<PausedMachine> {
    await this.core.client.pause(options);
    return new PausedMachine(this.core);
  }

  /** Pauses, writes a snapshot, resumes; resumes also when the snapshot fails. */
  async snapshot(snapshot: SnapshotOptions, options: CallOptions = {}): Promise<void> {
    const paused = await this.pause({ signal: options.signal });
    try {
      await paused.createSnapshot(snapshot, options);
    } finally {
      if (this.isAlive) await paused.resume();
    }
  }

  /** Connects to a vsock port of the guest. @throws {FirecrackerVsockError} FC_VSOCK */
  dialVsock(port: number, options: DialOptions = {}): Promise<Duplex> {
    const { vsockPath } = this.core;
    if (vsockPath === undefined)
      return Promise.reject(
        new FirecrackerStateError(`machine ${this.id} has no vsock device that is known here`),
      );
    return this.core.whileAlive(dialVsock(vsockPath, port, options));
  }
}

/** A machine whose guest stands still. */
export class PausedMachine extends StartedMachine {
  /** Tells the type */
  readonly phase = "paused";

  /** Lets the guest go on. */
  async resume(options: CallOptions = {}): Promise<RunningMachine> {
    await this.core.client.resume(options);
    return new RunningMachine(this.core);
  }

  /** Writes state and memory to files; no time limit unless given. Disks are the caller's to copy meanwhile. */
  async createSnapshot(snapshot: SnapshotOptions, options: CallOptions = {}): Promise<void> {
    await this.core.client.createSnapshot(
      {
        snapshot_path: snapshot.statePath,
        mem_file_path: snapshot.memoryPath,
        snapshot_type: snapshot.kind === "diff" ? "Diff" : "Full",
      },
      options,
    );
  }
}
