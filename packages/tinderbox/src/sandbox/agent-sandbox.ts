/**
 * What a host pod and a microVM share: the whole Sandbox interface in terms of an agent that can be dialled.
 * What differs (how to dial, where a root file system comes from, who writes logs, how it ends) is a `Place`.
 */
import type { Duplex } from "node:stream";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { TinderboxError } from "../base/errors.ts";
import { span } from "../base/trace.ts";
import type { Image } from "../image/contract.ts";
import { AgentConnection, type AgentStream, type RequestBody } from "../rpc/agent-client.ts";
import {
  type BlockDeviceSchema,
  type ContainerState,
  ContainerState_Status,
  type ContainerStats,
  type Event,
  type PodStats,
  type PreparedMountSchema,
  type Response,
  type RootfsSchema,
  type VolumeSchema,
} from "../rpc/gen/tinderbox/agent/v1/agent_pb.ts";
import type {
  AttachOptions,
  ContainerFiles,
  ContainerSpec,
  ExecOptions,
  PreparedMount,
  ProcessStreams,
  Sandbox,
  SandboxEvent,
  SandboxRecord,
} from "./contract.ts";
import { processStreams, tcpDuplex } from "./process-streams.ts";

export type RootfsInit = MessageInitShape<typeof RootfsSchema>;
type MountInit = MessageInitShape<typeof PreparedMountSchema>;
export type MountSourceInit = NonNullable<MountInit["source"]>;
export type BlockDeviceInit = MessageInitShape<typeof BlockDeviceSchema>;
export type VolumeInit = MessageInitShape<typeof VolumeSchema>;

type StateRequest = Extract<
  RequestBody,
  { readonly case: "createContainer" | "startContainer" | "containerState" }
>;

/** What an AgentSandbox asks of the kind of place it is in. */
export type Place = {
  readonly kind: "host" | "microvm";
  dial(signal: AbortSignal): Promise<Duplex>;
  /** Gets the image ready for this container; idempotent by container id. */
  acquireRootfs(spec: ContainerSpec, signal: AbortSignal): Promise<RootfsInit>;
  /** Gets an image ready that is one of the container's volumes, `name` among them; given back with the root file system. */
  acquireVolume(
    containerId: string,
    name: string,
    image: Image,
    signal: AbortSignal,
  ): Promise<MountSourceInit>;
  /** microVM: makes the spec's host directories and files available to the guest; idempotent by container id. */
  serveVolumes?(spec: ContainerSpec, signal: AbortSignal): Promise<readonly VolumeInit[]>;
  /** microVM: makes the spec's block devices drives of the guest; given back with the root file system. */
  attachDevices?(spec: ContainerSpec): Promise<readonly BlockDeviceInit[]>;
  /** Gives image, volumes and block devices back; unknown ids are fine. Called after the agent has let go of the container. */
  releaseRootfs(containerId: string): Promise<void>;
  /** microVM: the daemon's end of the logs. Host: undefined, the agent writes the files. */
  readonly logs?: {
    begin(containerId: string, logPath: string): Promise<void>;
    reopen(containerId: string, logPath: string): Promise<void>;
    /** Resolves when everything below `end` is in the file, or after a deadline */
    drained(containerId: string, end: bigint): Promise<void>;
    remove(containerId: string): Promise<void>;
    close(): Promise<void>;
  };
  /** Host: where a container's files are. */
  containerFiles?(containerId: string): ContainerFiles;
  /** Ends the place and cleans up. */
  destroy(askAgent: () => Promise<void>): Promise<void>;
  /** A sentence on what became of it. */
  whyGone(): Promise<string>;
};

const helloTimeoutMs = 10_000;
const callTimeoutMs = 120_000;

/** A sandbox by its agent. */
export class AgentSandbox implements Sandbox {
  readonly id: string;
  readonly place: "host" | "microvm";
  readonly record: SandboxRecord;
  readonly #place: Place;
  #control: AgentConnection | undefined;
  #dialling: Promise<AgentConnection> | undefined;
  readonly #streams = new Set<AgentConnection>();
  #listener: ((event: SandboxEvent) => void) | undefined;
  #isLetGo = false;
  #goneReason: string | undefined;

  constructor(record: SandboxRecord, place: Place, control?: AgentConnection) {
    this.id = record.id;
    this.place = place.kind;
    this.record = record;
    this.#place = place;
    if (control) this.#adopt(control);
  }

  #adopt(control: AgentConnection): AgentConnection {
    this.#control = control;
    void control.closed.then(() => this.#onControlClosed(control));
    return control;
  }

  /** The control connection, dialled again when it broke. Also how a recovered sandbox is tried. */
  async control(): Promise<AgentConnection> {
    if (this.#goneReason !== undefined)
      throw new TinderboxError("UNAVAILABLE", `sandbox ${this.id} is gone: ${this.#goneReason}`);
    if (this.#control?.isOpen) return this.#control;
    this.#dialling ??= this.#connect()
      .then((connection) => this.#adopt(connection))
      .finally(() => {
        this.#dialling = undefined;
      });
    return this.#dialling;
  }

  async #connect(): Promise<AgentConnection> {
    const signal = AbortSignal.timeout(helloTimeoutMs);
    return span("agent", "a connection to it", async () =>
      AgentConnection.open(await this.#place.dial(signal), { timeoutMs: helloTimeoutMs, signal }),
    );
  }

  async #onControlClosed(closed: AgentConnection): Promise<void> {
    if (this.#isLetGo || this.#control !== closed) return;
    // The connection may break while the place lives: what decides is whether its agent still answers.
    try {
      const again = await this.control();
      if (this.#listener) await this.#subscribe(again);
    } catch {
      if (this.#isLetGo || this.#goneReason !== undefined) return;
      this.#goneReason = await this.#place.whyGone();
      await this.#place.logs?.close();
      this.#listener?.({ kind: "gone", reason: this.#goneReason });
    }
  }

  async #call(
    body: RequestBody,
    signal: AbortSignal = AbortSignal.timeout(callTimeoutMs),
  ): Promise<Response> {
    return (await this.control()).call(body, signal);
  }

  async #callForState(body: StateRequest, signal?: AbortSignal): Promise<ContainerState> {
    const response = await this.#call(body, signal);
    if (response.body.case !== "container")
      throw new TinderboxError("AGENT", `${body.case}: the agent's answer has no container state`);
    // The agent of a guest may be an attacker's: its answer is about this container or no answer.
    if (response.body.value.id !== body.value.id)
      throw new TinderboxError("AGENT", `${body.case}: the agent's answer is about another container`);
    return response.body.value;
  }

  async #prepare(containerId: string, mount: PreparedMount, signal: AbortSignal): Promise<MountInit> {
    const { name, source, subPath, recursiveReadOnly: recursiveReadonly } = mount;
    return {
      name,
      subPath,
      recursiveReadonly,
      uidMappings: [...mount.uidMappings],
      gidMappings: [...mount.gidMappings],
      source:
        source.kind === "path"
          ? { case: "path", value: source.path }
          : await this.#place.acquireVolume(containerId, name, source.image, signal),
    };
  }

  async createContainer(spec: ContainerSpec, signal: AbortSignal): Promise<ContainerState> {
    try {
      const rootfs = await this.#place.acquireRootfs(spec, signal);
      const mounts: MountInit[] = [];
      for (const mount of spec.mounts) mounts.push(await this.#prepare(spec.id, mount, signal));
      const volumes = (await this.#place.serveVolumes?.(spec, signal)) ?? [];
      const blockDevices = (await this.#place.attachDevices?.(spec)) ?? [];
      const state = await this.#callForState(
        {
          case: "createContainer",
          value: {
            id: spec.id,
            configJson: Buffer.from(JSON.stringify(spec.ociSpec)),
            rootfs: { ...rootfs, readonly: spec.readonlyRootfs },
            terminal: spec.terminal,
            stdin: spec.stdin,
            stdinOnce: spec.stdinOnce,
            logPath: this.#place.logs ? "" : spec.logPath,
            runtime: this.#place.kind === "microvm" ? "crun" : this.record.spec.runtime,
            mounts,
            files: spec.files.map((file) => ({ name: file.name, content: file.content, mode: file.mode })),
            volumes: [...volumes],
            blockDevices: [...blockDevices],
          },
        },
        signal,
      );
      if (spec.logPath !== "") await this.#place.logs?.begin(spec.id, spec.logPath);
      return state;
    } catch (cause) {
      // Whether the agent had got as far as making it or not.
      await this.deleteContainer(spec.id).catch(() => {});
      throw cause;
    }
  }

  startContainer(id: string, signal: AbortSignal): Promise<ContainerState> {
    return this.#callForState({ case: "startContainer", value: { id } }, signal);
  }

  async containerState(id: string): Promise<ContainerState> {
    const state = await this.#callForState({ case: "containerState", value: { id } });
    await this.#drain(state);
    return state;
  }

  async listContainers(): Promise<readonly ContainerState[]> {
    const response = await this.#call({ case: "listContainers", value: {} });
    if (response.body.case !== "containers")
      throw new TinderboxError("AGENT", "list: the agent's answer has no containers");
    return response.body.value.containers;
  }

  async signalContainer(id: string, signalNumber: number, all: boolean): Promise<void> {
    await this.#call({ case: "signal", value: { id, signal: signalNumber, all } });
  }

  async deleteContainer(id: string): Promise<void> {
    const missing = (cause: unknown): void => {
      if (!(cause instanceof TinderboxError && cause.code === "NOT_FOUND")) throw cause;
    };
    if (this.#place.logs) {
      // The spool goes with the container, so its last lines are fetched first.
      const state = await this.#callForState({ case: "containerState", value: { id } }).catch(
        () => undefined,
      );
      if (state) await this.#drain(state);
    }
    await this.#call({ case: "deleteContainer", value: { id, force: true } }).catch(missing);
    await this.#place.logs?.remove(id);
    await this.#place.releaseRootfs(id);
  }

  /** An exit is told only when its output is in the log: who sees the one looks at the other. */
  async #drain(state: ContainerState): Promise<void> {
    if (state.status === ContainerState_Status.EXITED)
      await this.#place.logs?.drained(state.id, state.logEnd);
  }

  async reopenLog(id: string, logPath: string): Promise<void> {
    if (this.#place.logs) await this.#place.logs.reopen(id, logPath);
    else await this.#call({ case: "reopenLog", value: { id, logPath } });
  }

  async updateContainer(id: string, resourcesJson: object, oomScoreAdj: number | undefined): Promise<void> {
    await this.#call({
      case: "updateContainer",
      value: {
        id,
        resourcesJson: Buffer.from(JSON.stringify(resourcesJson)),
        ...(oomScoreAdj === undefined ? {} : { oomScoreAdj }),
      },
    });
  }

  async containerStats(id: string): Promise<ContainerStats> {
    const response = await this.#call({ case: "containerStats", value: { id } });
    if (response.body.case !== "stats")
      throw new TinderboxError("AGENT", `stats of ${id}: the agent's answer has none`);
    return response.body.value;
  }

  async podStats(): Promise<PodStats> {
    const response = await this.#call({ case: "podStats", value: {} });
    if (response.body.case !== "podStats")
      throw new TinderboxError("AGENT", "stats of the pod: the agent's answer has none");
    return response.body.value;
  }

  containerFiles(id: string): ContainerFiles | undefined {
    return this.#place.containerFiles?.(id);
  }

  /** Opens a stream on a connection of its own. */
  async openStream(
    body: RequestBody,
  ): Promise<{ readonly stream: AgentStream; readonly release: () => void }> {
    const connection = await this.#connect();
    this.#streams.add(connection);
    const release = (): void => {
      this.#streams.delete(connection);
      connection.close();
    };
    try {
      return { stream: await connection.openStream(body, AbortSignal.timeout(callTimeoutMs)), release };
    } catch (cause) {
      release();
      throw cause;
    }
  }

  async exec(id: string, options: ExecOptions): Promise<ProcessStreams> {
    const { processJson, timeoutMs, ...flags } = options;
    const { stream, release } = await this.openStream({
      case: "openExec",
      value: {
        containerId: id,
        processJson: Buffer.from(JSON.stringify(processJson)),
        timeoutMs: BigInt(Math.max(0, Math.trunc(timeoutMs))),
        stdin: flags.stdin,
        stdout: flags.stdout,
        stderr: flags.stderr,
        terminal: flags.terminal,
      },
    });
    return processStreams(stream, release);
  }

  async attach(id: string, options: AttachOptions): Promise<ProcessStreams> {
    const { stream, release } = await this.openStream({
      case: "openAttach",
      value: { containerId: id, stdin: options.stdin, stdout: options.stdout, stderr: options.stderr },
    });
    return processStreams(stream, release);
  }

  async connect(port: number): Promise<Duplex> {
    const { stream, release } = await this.openStream({ case: "openTcp", value: { port } });
    return tcpDuplex(stream, release);
  }

  onEvent(listener: (event: SandboxEvent) => void): void {
    this.#listener = listener;
    if (this.#goneReason !== undefined)
      return void queueMicrotask(() => listener({ kind: "gone", reason: this.#goneReason ?? "" }));
    // A failure here is the connection's end, which #onControlClosed deals with.
    void this.control()
      .then((control) => this.#subscribe(control))
      .catch(() => {});
  }

  async #subscribe(control: AgentConnection): Promise<void> {
    await control.subscribe((event) => void this.#onAgentEvent(event));
  }

  async #onAgentEvent(event: Event): Promise<void> {
    switch (event.body.case) {
      case "exited":
      case "state":
        await this.#drain(event.body.value);
        this.#listener?.({ kind: "container", state: event.body.value });
        return;
      case "oom":
        this.#listener?.({ kind: "oom", containerId: event.body.value });
        return;
      case undefined:
    }
  }

  async destroy(): Promise<void> {
    this.#isLetGo = true;
    await this.#place.destroy(async () => {
      if (this.#goneReason !== undefined) throw new TinderboxError("UNAVAILABLE", "the agent is gone");
      await this.#call({ case: "shutdown", value: {} }, AbortSignal.timeout(2_000));
    });
    this.#goneReason ??= "destroyed";
    await this.#close();
  }

  async detach(): Promise<void> {
    this.#isLetGo = true;
    await this.#close();
  }

  async #close(): Promise<void> {
    await this.#place.logs?.close();
    for (const connection of this.#streams) connection.close();
    this.#control?.close();
  }
}
