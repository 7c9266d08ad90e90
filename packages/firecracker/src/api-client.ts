/**
 * Firecracker's API, typed. Each call is checked against the table of operations (phase, version, fields, size)
 * before it is sent, and paths in bodies are translated to where the VMM sees them.
 */
import { type CallLimits, CallQueue } from "./call-queue.ts";
import {
  type Body,
  checkBody,
  checkPhase,
  checkVersion,
  requestPath,
  translatePaths,
  type VmPhase,
} from "./check-request.ts";
import type { DrivePatchWire, DriveWire, PmemPatchWire, PmemWire } from "./drive-wire.ts";
import { FirecrackerApiError, FirecrackerArgumentError, FirecrackerStateError } from "./errors.ts";
import { HttpTransport } from "./http-transport.ts";
import type * as memory from "./memory-wire.ts";
import type * as network from "./network-wire.ts";
import { type Method, type OperationName, operations, type PathUse } from "./operations.ts";
import type { LoggerWire, MetricsWire, SerialWire } from "./output-wire.ts";
import type { SnapshotCreateWire, SnapshotLoadWire } from "./snapshot-wire.ts";
import type * as vm from "./vm-wire.ts";

/** How to reach and check one VMM. */
export type ApiClientOptions = {
  /** ms for one call; snapshot calls have none. @default 30_000 */
  readonly timeoutMs?: number | undefined;
  /** The VMM's `--http-api-max-payload-size`, bytes. @default 51_200 */
  readonly maxBodyBytes?: number | undefined;
  /** Skips the question for the VMM's version: what it is */
  readonly vmmVersion?: string | undefined;
  /** Turns a host path into what the VMM must be told (and may put the file there). @default the same path */
  readonly toVmmPath?: (hostPath: string, use: PathUse) => string | Promise<string>;
  /** Asked when no answer came: a better reason, such as the VMM's end */
  readonly explainLoss?: () => Promise<Error | undefined>;
};

/** Options of one call. */
export type CallOptions = {
  /** Gives the call up; what was sent may still be done */
  readonly signal?: AbortSignal | undefined;
  /** ms; 0 = no limit. @default the client's, none for snapshot calls */
  readonly timeoutMs?: number;
};

/** A client of one VMM. Making it does not connect. A method that a phase does not allow rejects with FC_STATE. */
export class FirecrackerClient implements Disposable {
  readonly #transport: HttpTransport;
  readonly #options: ApiClientOptions;
  readonly #queue = new CallQueue();
  readonly #readOnlyDrives = new Map<string, boolean>();
  #version: string | undefined;
  #phase: VmPhase | undefined;

  constructor(socketPath: string, options: ApiClientOptions = {}) {
    this.#transport = new HttpTransport(socketPath);
    this.#options = options;
    this.#version = options.vmmVersion;
  }

  /** The API's unix socket */
  get socketPath(): string {
    return this.#transport.socketPath;
  }

  #limits(options: CallOptions, isSlow = false): CallLimits {
    return {
      signal: options.signal,
      timeoutMs: options.timeoutMs ?? (isSlow ? 0 : (this.#options.timeoutMs ?? 30_000)),
    };
  }

  /**
   * Any request, unchecked and untranslated; the parsed answer, undefined for 204.
   * @throws {FirecrackerApiError} FC_API @throws {FirecrackerTimeoutError} FC_TIMEOUT
   */
  request(method: Method, path: string, body?: object, options: CallOptions = {}): Promise<unknown> {
    return this.#queue.run(`${method} ${path}`, this.#limits(options), (stop) =>
      this.#send(method, path, body, stop),
    );
  }

  async #send(method: Method, path: string, body: object | undefined, stop: AbortSignal): Promise<unknown> {
    const payload = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const limit = this.#options.maxBodyBytes ?? 51_200;
    if (payload !== undefined && payload.length > limit) {
      throw new FirecrackerArgumentError(
        "body",
        `${method} ${path}: ${payload.length} bytes; at most ${limit} are accepted`,
      );
    }
    try {
      return await this.#transport.exchange(method, path, payload, stop);
    } catch (cause) {
      if (stop.aborted || !(cause instanceof FirecrackerApiError && cause.status === 0)) throw cause;
      throw (await this.#options.explainLoss?.()) ?? cause;
    }
  }

  /** What the VM does, as far as is known here; asked once, then followed. */
  phase(options: CallOptions = {}): Promise<VmPhase> {
    return this.#queue.run("GET /", this.#limits(options), (stop) => this.#knownPhase(stop));
  }
  /** The VMM's version, by GET /version, asked once. */
  vmmVersion(options: CallOptions = {}): Promise<string> {
    return this.#queue.run("GET /version", this.#limits(options), (stop) => this.#knownVersion(stop));
  }

  async #knownPhase(stop: AbortSignal): Promise<VmPhase> {
    this.#phase ??= await this.#askPhase(stop);
    return this.#phase;
  }
  // An answer's shape is the VMM's promise for its version: the casts below are where it is taken at its word.
  async #askPhase(stop: AbortSignal): Promise<VmPhase> {
    const { state } = (await this.#send("GET", "/", undefined, stop)) as vm.InstanceInfoWire;
    return state === "Not started" ? "before" : state === "Paused" ? "paused" : "running";
  }
  async #knownVersion(stop: AbortSignal): Promise<string> {
    if (this.#version === undefined) {
      const answer = (await this.#send("GET", "/version", undefined, stop)) as vm.VersionWire;
      this.#version = answer.firecracker_version;
    }
    return this.#version;
  }

  #call(name: OperationName, body?: object, id?: string, options: CallOptions = {}): Promise<unknown> {
    const operation = operations[name];
    const { method, path } = operation;
    return this.#queue.run(`${method} ${path}`, this.#limits(options, operation.slow), (stop) =>
      this.#checkAndSend(name, body, id, stop),
    );
  }

  async #checkAndSend(
    name: OperationName,
    body: object | undefined,
    id: string | undefined,
    stop: AbortSignal,
  ): Promise<unknown> {
    const operation = operations[name];
    const path = requestPath(operation, id);
    // A body's type has no index signature, so it is widened by hand.
    const fields = body as Body | undefined;
    if (operation.when !== "any") {
      try {
        checkPhase(operation, path, await this.#knownPhase(stop));
      } catch (cause) {
        if (!(cause instanceof FirecrackerStateError)) throw cause;
        // Somebody else may have started or paused it: the VMM has the last word.
        this.#phase = await this.#askPhase(stop);
        checkPhase(operation, path, this.#phase);
      }
    }
    if (operation.since || operation.afterSince || (operation.body && fields))
      checkVersion(operation, path, fields, this.#phase ?? "running", await this.#knownVersion(stop));
    checkBody(operation, fields);
    const { toVmmPath } = this.#options;
    const hints =
      toVmmPath && name === "patchDrive" && id !== undefined ? await this.#driveHints(id, stop) : {};
    const sent =
      operation.body && fields && toVmmPath
        ? await translatePaths(operation.body, fields, toVmmPath, hints)
        : body;
    const answer = await this.#send(operation.method, path, sent, stop);
    if (name === "startInstance") this.#phase = "running";
    if (name === "setVmState") this.#phase = fields?.["state"] === "Paused" ? "paused" : "running";
    if (name === "loadSnapshot") this.#phase = fields?.["resume_vm"] === true ? "running" : "paused";
    return answer;
  }

  /** Whether a drive is read-only decides what a jail does with its new file, and a PATCH does not tell. */
  async #driveHints(id: string, stop: AbortSignal): Promise<Body> {
    if (!this.#readOnlyDrives.has(id)) {
      const { drives } = (await this.#send("GET", "/vm/config", undefined, stop)) as vm.VmConfigAnswerWire;
      for (const drive of drives) this.#readOnlyDrives.set(drive.drive_id, drive.is_read_only === true);
    }
    return { is_read_only: this.#readOnlyDrives.get(id) };
  }

  async #do(name: OperationName, body?: object, id?: string, options?: CallOptions): Promise<void> {
    await this.#call(name, body, id, options);
  }

  /** GET / */
  async instanceInfo(options?: CallOptions): Promise<vm.InstanceInfoWire> {
    return (await this.#call("instanceInfo", undefined, undefined, options)) as vm.InstanceInfoWire;
  }
  /** GET /version */
  async version(options?: CallOptions): Promise<vm.VersionWire> {
    return (await this.#call("version", undefined, undefined, options)) as vm.VersionWire;
  }
  /** GET /vm/config */
  async vmConfig(options?: CallOptions): Promise<vm.VmConfigAnswerWire> {
    return (await this.#call("vmConfig", undefined, undefined, options)) as vm.VmConfigAnswerWire;
  }
  /** GET /machine-config */
  async machineConfig(options?: CallOptions): Promise<vm.MachineConfigWire> {
    return (await this.#call("machineConfig", undefined, undefined, options)) as vm.MachineConfigWire;
  }
  /** PUT /machine-config: replaces all of it */
  putMachineConfig(body: vm.MachineConfigWire, options?: CallOptions): Promise<void> {
    return this.#do("putMachineConfig", body, undefined, options);
  }
  /** PATCH /machine-config: at least one field; the others stay */
  patchMachineConfig(body: Partial<vm.MachineConfigWire>, options?: CallOptions): Promise<void> {
    return this.#do("patchMachineConfig", body, undefined, options);
  }
  /** PUT /boot-source */
  putBootSource(body: vm.BootSourceWire, options?: CallOptions): Promise<void> {
    return this.#do("putBootSource", body, undefined, options);
  }
  /** PUT /cpu-config */
  putCpuConfig(body: vm.CpuConfigWire, options?: CallOptions): Promise<void> {
    return this.#do("putCpuConfig", body, undefined, options);
  }
  /** PUT /actions InstanceStart */
  startInstance(options?: CallOptions): Promise<void> {
    return this.#do("startInstance", { action_type: "InstanceStart" }, undefined, options);
  }
  /** PUT /actions FlushMetrics: writes a line of metrics now */
  flushMetrics(options?: CallOptions): Promise<void> {
    return this.#do("runAction", { action_type: "FlushMetrics" }, undefined, options);
  }
  /** PUT /actions SendCtrlAltDel; x86 only */
  sendCtrlAltDel(options?: CallOptions): Promise<void> {
    return this.#do("runAction", { action_type: "SendCtrlAltDel" }, undefined, options);
  }
  /** PATCH /vm Paused; asking twice is no failure */
  pause(options?: CallOptions): Promise<void> {
    return this.#do("setVmState", { state: "Paused" }, undefined, options);
  }
  /** PATCH /vm Resumed; asking twice is no failure */
  resume(options?: CallOptions): Promise<void> {
    return this.#do("setVmState", { state: "Resumed" }, undefined, options);
  }
  /** PUT /drives/ID: before the start; after it (1.16+, PCI) plugs the drive in */
  async putDrive(body: DriveWire, options?: CallOptions): Promise<void> {
    await this.#do("putDrive", body, body.drive_id, options);
    this.#readOnlyDrives.set(body.drive_id, body.is_read_only === true);
  }
  /** PATCH /drives/ID: another backing file, other limits */
  patchDrive(body: DrivePatchWire, options?: CallOptions): Promise<void> {
    return this.#do("patchDrive", body, body.drive_id, options);
  }
  /** DELETE /drives/ID: unplugs it; 1.16+, PCI. The guest must have let it go */
  deleteDrive(id: string, options?: CallOptions): Promise<void> {
    return this.#do("deleteDrive", undefined, id, options);
  }
  /** PUT /pmem/ID; 1.14+; after the start (1.16+, PCI) plugs it in */
  putPmem(body: PmemWire, options?: CallOptions): Promise<void> {
    return this.#do("putPmem", body, body.id, options);
  }
  /** PATCH /pmem/ID: other limits; 1.16+ */
  patchPmem(body: PmemPatchWire, options?: CallOptions): Promise<void> {
    return this.#do("patchPmem", body, body.id, options);
  }
  /** DELETE /pmem/ID: unplugs it; 1.16+, PCI */
  deletePmem(id: string, options?: CallOptions): Promise<void> {
    return this.#do("deletePmem", undefined, id, options);
  }
  /** PUT /network-interfaces/ID: before the start; after it (1.16+, PCI) plugs it in */
  putNetworkInterface(body: network.NetworkInterfaceWire, options?: CallOptions): Promise<void> {
    return this.#do("putNetworkInterface", body, body.iface_id, options);
  }
  /** PATCH /network-interfaces/ID: other limits */
  patchNetworkInterface(body: network.NetworkInterfacePatchWire, options?: CallOptions): Promise<void> {
    return this.#do("patchNetworkInterface", body, body.iface_id, options);
  }
  /** DELETE /network-interfaces/ID: unplugs it; 1.16+, PCI */
  deleteNetworkInterface(id: string, options?: CallOptions): Promise<void> {
    return this.#do("deleteNetworkInterface", undefined, id, options);
  }
  /** PUT /vsock: binds its socket at once */
  putVsock(body: network.VsockWire, options?: CallOptions): Promise<void> {
    return this.#do("putVsock", body, undefined, options);
  }
  /** PUT /entropy */
  putEntropy(body: vm.EntropyWire, options?: CallOptions): Promise<void> {
    return this.#do("putEntropy", body, undefined, options);
  }
  /** PUT /serial; 1.14+ */
  putSerial(body: SerialWire, options?: CallOptions): Promise<void> {
    return this.#do("putSerial", body, undefined, options);
  }
  /** PUT /logger; also before a snapshot is loaded */
  putLogger(body: LoggerWire, options?: CallOptions): Promise<void> {
    return this.#do("putLogger", body, undefined, options);
  }
  /** PUT /metrics, once; also before a snapshot is loaded */
  putMetrics(body: MetricsWire, options?: CallOptions): Promise<void> {
    return this.#do("putMetrics", body, undefined, options);
  }
  /** GET /balloon; FC_API 400 when there is none */
  async balloon(options?: CallOptions): Promise<memory.BalloonWire> {
    return (await this.#call("balloon", undefined, undefined, options)) as memory.BalloonWire;
  }
  /** PUT /balloon */
  putBalloon(body: memory.BalloonWire, options?: CallOptions): Promise<void> {
    return this.#do("putBalloon", body, undefined, options);
  }
  /** PATCH /balloon: another target */
  patchBalloon(body: memory.BalloonPatchWire, options?: CallOptions): Promise<void> {
    return this.#do("patchBalloon", body, undefined, options);
  }
  /** GET /balloon/statistics */
  async balloonStatistics(options?: CallOptions): Promise<memory.BalloonStatisticsWire> {
    return (await this.#call(
      "balloonStatistics",
      undefined,
      undefined,
      options,
    )) as memory.BalloonStatisticsWire;
  }
  /** PATCH /balloon/statistics: another interval */
  patchBalloonStatistics(body: memory.BalloonStatisticsPatchWire, options?: CallOptions): Promise<void> {
    return this.#do("patchBalloonStatistics", body, undefined, options);
  }
  /** PATCH /balloon/hinting/start; 1.14+ */
  startHinting(body: memory.HintingStartWire = {}, options?: CallOptions): Promise<void> {
    return this.#do("startHinting", body, undefined, options);
  }
  /** GET /balloon/hinting/status; 1.14+ */
  async hintingStatus(options?: CallOptions): Promise<memory.HintingStatusWire> {
    return (await this.#call("hintingStatus", undefined, undefined, options)) as memory.HintingStatusWire;
  }
  /** PATCH /balloon/hinting/stop; 1.14+ */
  stopHinting(options?: CallOptions): Promise<void> {
    return this.#do("stopHinting", undefined, undefined, options);
  }
  /** GET /hotplug/memory; 1.14+ */
  async memoryHotplug(options?: CallOptions): Promise<memory.MemoryHotplugStatusWire> {
    return (await this.#call(
      "memoryHotplug",
      undefined,
      undefined,
      options,
    )) as memory.MemoryHotplugStatusWire;
  }
  /** PUT /hotplug/memory; 1.14+ */
  putMemoryHotplug(body: memory.MemoryHotplugWire, options?: CallOptions): Promise<void> {
    return this.#do("putMemoryHotplug", body, undefined, options);
  }
  /** PATCH /hotplug/memory: another size, which the guest takes up in its own time; 1.14+ */
  patchMemoryHotplug(body: memory.MemoryHotplugPatchWire, options?: CallOptions): Promise<void> {
    return this.#do("patchMemoryHotplug", body, undefined, options);
  }
  /** GET /mmds: `{}` when empty */
  async mmds(options?: CallOptions): Promise<object> {
    return (await this.#call("mmds", undefined, undefined, options)) as object;
  }
  /** PUT /mmds: replaces the store */
  putMmds(body: object, options?: CallOptions): Promise<void> {
    return this.#do("putMmds", body, undefined, options);
  }
  /** PATCH /mmds: JSON merge patch */
  patchMmds(body: object, options?: CallOptions): Promise<void> {
    return this.#do("patchMmds", body, undefined, options);
  }
  /** PUT /mmds/config; the data is put by PUT /mmds */
  putMmdsConfig(body: network.MmdsConfigWire, options?: CallOptions): Promise<void> {
    return this.#do("putMmdsConfig", body, undefined, options);
  }
  /** PUT /snapshot/create; can take minutes, and the VMM answers nothing else meanwhile */
  createSnapshot(body: SnapshotCreateWire, options?: CallOptions): Promise<void> {
    return this.#do("createSnapshot", body, undefined, options);
  }
  /** PUT /snapshot/load, on a process without any device; a failure also ends the process */
  loadSnapshot(body: SnapshotLoadWire, options?: CallOptions): Promise<void> {
    return this.#do("loadSnapshot", body, undefined, options);
  }

  /** Closes the connection; a request still under way fails. */
  [Symbol.dispose](): void {
    this.#transport[Symbol.dispose]();
  }
}

/** Calls for any time. */
export type CommonApi = Pick<
  FirecrackerClient,
  | "socketPath"
  | "request"
  | "phase"
  | "vmmVersion"
  | "instanceInfo"
  | "version"
  | "vmConfig"
  | "machineConfig"
  | "balloon"
  | "mmds"
  | "putMmds"
  | "patchMmds"
>;

/** Calls for a VM that has not been started. */
export type PrebootApi = CommonApi &
  Pick<
    FirecrackerClient,
    | "putMachineConfig"
    | "patchMachineConfig"
    | "putBootSource"
    | "putCpuConfig"
    | "putDrive"
    | "putPmem"
    | "putNetworkInterface"
    | "putVsock"
    | "putEntropy"
    | "putSerial"
    | "putLogger"
    | "putMetrics"
    | "putBalloon"
    | "putMemoryHotplug"
    | "putMmdsConfig"
  >;

/** Calls for a VM that has been started, running or paused. */
export type RunningApi = CommonApi &
  Pick<
    FirecrackerClient,
    | "flushMetrics"
    | "sendCtrlAltDel"
    | "putDrive"
    | "patchDrive"
    | "deleteDrive"
    | "putPmem"
    | "patchPmem"
    | "deletePmem"
    | "putNetworkInterface"
    | "patchNetworkInterface"
    | "deleteNetworkInterface"
    | "patchBalloon"
    | "balloonStatistics"
    | "patchBalloonStatistics"
    | "startHinting"
    | "hintingStatus"
    | "stopHinting"
    | "memoryHotplug"
    | "patchMemoryHotplug"
  >;
