/** Machines that go on from a snapshot: one, or many from the same. */
import type { PrebootApi, RunningApi } from "./api-client.ts";
import { FirecrackerArgumentError } from "./errors.ts";
import { type LaunchOptions, launchMachine } from "./launch.ts";
import type { RunningMachine } from "./machine.ts";
import type { LoggerWire, MetricsWire, SerialWire } from "./output-wire.ts";
import type { SnapshotLoadOptions } from "./snapshot-options.ts";

/** What is not in a snapshot and has to be given again. */
export type RestoreSettings = {
  /** PUT /logger */
  readonly logger?: LoggerWire;
  /** PUT /metrics */
  readonly metrics?: MetricsWire;
  /** PUT /serial */
  readonly serial?: SerialWire;
  /** The metadata store's content */
  readonly mmds?: object;
  /** Called before the guest goes on, for drives to be exchanged by `api.patchDrive` and the like */
  readonly beforeResume?: (api: RunningApi) => Promise<void>;
};

/**
 * Starts a fresh VMM and makes it go on from a snapshot. What was unique in the guest no longer is: kernels from 5.18
 * reseed their random numbers by VMGenID; user space (TLS, tokens, machine-id, DHCP) has to be told.
 * @throws {FirecrackerApiError} FC_API when it does not load; the VMM is ended then
 */
export async function restoreMachine(
  options: LaunchOptions & RestoreSettings & { readonly snapshot: SnapshotLoadOptions },
): Promise<RunningMachine> {
  const { logger, metrics, serial, mmds, beforeResume, signal } = options;
  const machine = await launchMachine(options);
  try {
    const api: PrebootApi = machine.api;
    if (logger) await api.putLogger(logger, { signal });
    if (metrics) await api.putMetrics(metrics, { signal });
    if (serial) await api.putSerial(serial, { signal });
    const paused = await machine.loadSnapshot(options.snapshot, { signal });
    if (mmds) await paused.api.putMmds(mmds, { signal });
    await beforeResume?.(paused.api);
    return await paused.resume({ signal });
  } catch (cause) {
    await machine.kill();
    throw cause;
  }
}

/** Many machines from one snapshot: the memory file is shared, the rest is each one's own. */
export type CloneOptions = {
  /** Where all come from */
  readonly snapshot: Omit<SnapshotLoadOptions, "vsockPath" | "taps">;
  /** How many */
  readonly count: number;
  /**
   * What is the clone's own: id, socket, vsock path, taps, metadata. A snapshot with drives needs a mount namespace or
   * jail for each, or read-only drives, or `beforeResume`: the paths in it cannot be overridden.
   */
  readonly clone: (
    index: number,
  ) => LaunchOptions & RestoreSettings & Pick<SnapshotLoadOptions, "vsockPath" | "taps">;
  /** Restores at the same time. @default 4 */
  readonly concurrency?: number;
  /** Gives up, and kills those that came up */
  readonly signal?: AbortSignal;
};

/** Restores all of them, in the order of their index, or none: after a failure those that came up are killed. */
export async function restoreClones(options: CloneOptions): Promise<RunningMachine[]> {
  const { snapshot, count, clone, concurrency = 4, signal } = options;
  if (!Number.isInteger(count) || count < 1)
    throw new FirecrackerArgumentError("count", `${count} is not 1 or more`);
  const stop = new AbortController();
  const limit = AbortSignal.any([stop.signal, ...(signal ? [signal] : [])]);
  const machines: RunningMachine[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count && !stop.signal.aborted) {
      const index = next++;
      const { vsockPath, taps, ...own } = clone(index);
      machines[index] = await restoreMachine({
        ...own,
        snapshot: { ...snapshot, ...(vsockPath !== undefined && { vsockPath }), ...(taps && { taps }) },
        signal: limit,
      });
    }
  };
  const results = await Promise.allSettled(
    Array.from({ length: Math.max(1, Math.min(concurrency, count)) }, () =>
      worker().catch((cause) => {
        stop.abort(cause);
        throw cause;
      }),
    ),
  );
  if (results.every((result) => result.status === "fulfilled")) return machines;
  await Promise.allSettled(machines.map((machine) => machine.kill()));
  throw stop.signal.reason;
}
