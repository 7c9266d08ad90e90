/**
 * Firecracker's REST API over its unix socket. Requests go out strictly one after the other on one kept-alive
 * connection: the server handles one at a time anyway, and the order of pre-boot calls matters.
 */
import { Agent, request as httpRequest } from "node:http";
import type * as device from "./device-wire.ts";
import { FirecrackerApiError, FirecrackerTimeoutError } from "./errors.ts";
import type * as machine from "./machine-wire.ts";

export type ApiClientOptions = {
  /** ms for one request; snapshot calls have none. @default 30_000 */
  readonly timeoutMs?: number;
};

export type Method = "GET" | "PUT" | "PATCH" | "DELETE";

/** The server refuses larger bodies with a broken connection, so the client refuses them first. */
const defaultBodyLimit = 51_200;
const maxAnswerBytes = 8 << 20;

/** What a failure's body says; the HTTP layer's own failures are not always valid JSON. */
function faultOf(body: string): string {
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed === "object" && parsed !== null) {
      if ("fault_message" in parsed && typeof parsed.fault_message === "string") return parsed.fault_message;
      if ("error" in parsed && typeof parsed.error === "string") return parsed.error;
    }
  } catch {
    // falls through to the text itself
  }
  return body.trim() || "no reason given";
}

/** A client of one VMM. Making it does not connect. */
export class FirecrackerClient implements Disposable {
  readonly socketPath: string;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1, maxFreeSockets: 1 });
  readonly #timeoutMs: number;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(socketPath: string, options: ApiClientOptions = {}) {
    this.socketPath = socketPath;
    this.#timeoutMs = options.timeoutMs ?? 30_000;
  }

  /**
   * Sends one request after all earlier ones have been answered; the parsed body, undefined for 204.
   * @throws {FirecrackerApiError} FC_API when the answer is a failure or does not come
   * @throws {FirecrackerTimeoutError} FC_TIMEOUT
   */
  request(
    method: Method,
    path: string,
    body?: object,
    signal?: AbortSignal,
    timeoutMs = this.#timeoutMs,
  ): Promise<unknown> {
    const turn = this.#tail.then(() => this.#send(method, path, body, signal, timeoutMs));
    this.#tail = turn.catch(() => {});
    return turn;
  }

  #send(
    method: Method,
    path: string,
    body: object | undefined,
    signal: AbortSignal | undefined,
    timeoutMs: number,
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const payload = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
      if (payload !== undefined && payload.length > defaultBodyLimit) {
        return reject(
          new FirecrackerApiError(
            method,
            path,
            0,
            `a body of ${payload.length} bytes; at most ${defaultBodyLimit} are accepted`,
          ),
        );
      }
      const headers: Record<string, string | number> = { Accept: "application/json" };
      if (payload !== undefined) {
        headers["Content-Type"] = "application/json";
        headers["Content-Length"] = payload.length;
      }
      const outgoing = httpRequest({
        socketPath: this.socketPath,
        method,
        path,
        headers,
        agent: this.#agent,
      });
      const timer =
        timeoutMs === 0
          ? undefined
          : setTimeout(
              () =>
                outgoing.destroy(
                  new FirecrackerTimeoutError(`${method} ${path}: no answer in ${timeoutMs} ms`),
                ),
              timeoutMs,
            );
      const onAbort = (): void =>
        void outgoing.destroy(signal?.reason instanceof Error ? signal.reason : new Error("aborted"));
      signal?.addEventListener("abort", onAbort, { once: true });
      const settle = (act: () => void): void => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        act();
      };
      const fail = (cause: Error): void =>
        settle(() => {
          if (signal?.aborted) reject(signal.reason);
          else if (cause instanceof FirecrackerTimeoutError) reject(cause);
          else reject(new FirecrackerApiError(method, path, 0, cause.message, cause));
        });
      outgoing.once("error", fail);
      outgoing.once("response", (answer) => {
        const chunks: Buffer[] = [];
        let size = 0;
        answer.on("data", (chunk: Buffer) => {
          size += chunk.length;
          if (size > maxAnswerBytes)
            outgoing.destroy(new Error(`an answer of more than ${maxAnswerBytes} bytes`));
          else chunks.push(chunk);
        });
        answer.once("error", fail);
        answer.once("end", () =>
          settle(() => {
            const text = Buffer.concat(chunks).toString("utf8");
            const status = answer.statusCode ?? 0;
            if (status < 200 || status > 299)
              return reject(new FirecrackerApiError(method, path, status, faultOf(text)));
            if (text === "") return resolve(undefined);
            try {
              resolve(JSON.parse(text));
            } catch (cause) {
              reject(new FirecrackerApiError(method, path, status, "the answer is not JSON", cause));
            }
          }),
        );
      });
      outgoing.end(payload);
    });
  }

  // A body's shape is the VMM's promise for its version: the casts below are where it is taken at its word.
  async #get<T>(path: string, signal?: AbortSignal): Promise<T> {
    return (await this.request("GET", path, undefined, signal)) as T;
  }
  async #do(
    method: Method,
    path: string,
    body?: object,
    signal?: AbortSignal,
    timeoutMs?: number,
  ): Promise<void> {
    await this.request(method, path, body, signal, timeoutMs);
  }

  /** GET / */
  instanceInfo = (signal?: AbortSignal) => this.#get<machine.InstanceInfoWire>("/", signal);
  /** GET /version */
  version = (signal?: AbortSignal) => this.#get<machine.VersionWire>("/version", signal);
  /** GET /vm/config */
  vmConfig = (signal?: AbortSignal) => this.#get<machine.VmConfigWire>("/vm/config", signal);
  /** GET /machine-config */
  machineConfig = (signal?: AbortSignal) => this.#get<machine.MachineConfigWire>("/machine-config", signal);
  /** PUT /machine-config, before start: replaces all of it */
  putMachineConfig = (body: machine.MachineConfigWire, signal?: AbortSignal) =>
    this.#do("PUT", "/machine-config", body, signal);
  /** PATCH /machine-config, before start: at least one field */
  patchMachineConfig = (body: Partial<machine.MachineConfigWire>, signal?: AbortSignal) =>
    this.#do("PATCH", "/machine-config", body, signal);
  /** PUT /boot-source, before start */
  putBootSource = (body: machine.BootSourceWire, signal?: AbortSignal) =>
    this.#do("PUT", "/boot-source", body, signal);
  /** PUT /cpu-config, before start */
  putCpuConfig = (body: machine.CpuConfigWire, signal?: AbortSignal) =>
    this.#do("PUT", "/cpu-config", body, signal);
  /** PUT /drives/ID, before start; after it (1.16+, PCI) plugs the drive in */
  putDrive = (body: device.DriveWire, signal?: AbortSignal) =>
    this.#do("PUT", `/drives/${body.drive_id}`, body, signal);
  /** PATCH /drives/ID, after start */
  patchDrive = (body: device.DrivePatchWire, signal?: AbortSignal) =>
    this.#do("PATCH", `/drives/${body.drive_id}`, body, signal);
  /** DELETE /drives/ID, after start; 1.16+, PCI */
  deleteDrive = (id: string, signal?: AbortSignal) => this.#do("DELETE", `/drives/${id}`, undefined, signal);
  /** PUT /network-interfaces/ID, before start; after it (1.16+, PCI) plugs it in */
  putNetworkInterface = (body: device.NetworkInterfaceWire, signal?: AbortSignal) =>
    this.#do("PUT", `/network-interfaces/${body.iface_id}`, body, signal);
  /** PATCH /network-interfaces/ID, after start */
  patchNetworkInterface = (body: device.NetworkInterfacePatchWire, signal?: AbortSignal) =>
    this.#do("PATCH", `/network-interfaces/${body.iface_id}`, body, signal);
  /** DELETE /network-interfaces/ID, after start; 1.16+, PCI */
  deleteNetworkInterface = (id: string, signal?: AbortSignal) =>
    this.#do("DELETE", `/network-interfaces/${id}`, undefined, signal);
  /** PUT /vsock, before start */
  putVsock = (body: device.VsockWire, signal?: AbortSignal) => this.#do("PUT", "/vsock", body, signal);
  /** PUT /entropy, before start */
  putEntropy = (body: device.EntropyWire, signal?: AbortSignal) => this.#do("PUT", "/entropy", body, signal);
  /** PUT /serial, before start; 1.14+ */
  putSerial = (body: device.SerialWire, signal?: AbortSignal) => this.#do("PUT", "/serial", body, signal);
  /** PUT /logger, before start */
  putLogger = (body: machine.LoggerWire, signal?: AbortSignal) => this.#do("PUT", "/logger", body, signal);
  /** PUT /metrics, before start, once */
  putMetrics = (body: machine.MetricsWire, signal?: AbortSignal) => this.#do("PUT", "/metrics", body, signal);
  /** GET /balloon */
  balloon = (signal?: AbortSignal) => this.#get<device.BalloonWire>("/balloon", signal);
  /** PUT /balloon, before start */
  putBalloon = (body: device.BalloonWire, signal?: AbortSignal) => this.#do("PUT", "/balloon", body, signal);
  /** PATCH /balloon, after start */
  patchBalloon = (body: { readonly amount_mib: number }, signal?: AbortSignal) =>
    this.#do("PATCH", "/balloon", body, signal);
  /** GET /balloon/statistics, after start */
  balloonStatistics = (signal?: AbortSignal) =>
    this.#get<device.BalloonStatisticsWire>("/balloon/statistics", signal);
  /** PATCH /balloon/statistics, after start */
  patchBalloonStatistics = (body: { readonly stats_polling_interval_s: number }, signal?: AbortSignal) =>
    this.#do("PATCH", "/balloon/statistics", body, signal);
  /** GET /mmds */
  mmds = (signal?: AbortSignal) => this.#get<object>("/mmds", signal);
  /** PUT /mmds: replaces the store */
  putMmds = (body: object, signal?: AbortSignal) => this.#do("PUT", "/mmds", body, signal);
  /** PATCH /mmds: JSON merge patch */
  patchMmds = (body: object, signal?: AbortSignal) => this.#do("PATCH", "/mmds", body, signal);
  /** PUT /mmds/config, before start */
  putMmdsConfig = (body: device.MmdsConfigWire, signal?: AbortSignal) =>
    this.#do("PUT", "/mmds/config", body, signal);
  /** PUT /actions */
  action = (type: machine.ActionWire["action_type"], signal?: AbortSignal) =>
    this.#do("PUT", "/actions", { action_type: type }, signal);
  /** PATCH /vm, after start */
  setVmState = (state: machine.VmStateWire["state"], signal?: AbortSignal) =>
    this.#do("PATCH", "/vm", { state }, signal);
  /** PUT /snapshot/create, while paused; can take minutes */
  createSnapshot = (body: machine.SnapshotCreateWire, signal?: AbortSignal) =>
    this.#do("PUT", "/snapshot/create", body, signal, 0);
  /** PUT /snapshot/load, on a fresh process; a failure also ends the process */
  loadSnapshot = (body: machine.SnapshotLoadWire, signal?: AbortSignal) =>
    this.#do("PUT", "/snapshot/load", body, signal, 0);

  /** Closes the connection; a request still under way fails. */
  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}
