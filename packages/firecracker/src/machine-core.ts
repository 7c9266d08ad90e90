/** What all views of one machine share: its process, its client, what it leaves, its entry in a journal. Not exported. */
import { lstat } from "node:fs/promises";
import type { CallOptions, FirecrackerClient } from "./api-client.ts";
import { FirecrackerArgumentError } from "./errors.ts";
import type { JournalEntry } from "./journal.ts";
import { type Leftover, removeLeftovers } from "./leftovers.ts";
import type { PathUse } from "./operations.ts";
import { isVmmAlive } from "./process-identity.ts";
import { endProcess, killProcess, type ShutdownOptions } from "./shutdown.ts";
import type { SnapshotLoadOptions } from "./snapshot-options.ts";
import type { VmmSpawner } from "./spawner.ts";
import { type ExitStatus, endsWithin, exitedError, type VmmProcess, whileAlive } from "./vmm-process.ts";

/** Rejects with the signal's reason when it is aborted first; leaves no listener behind. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** Whether anything has that name, a dangling link included. */
export async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  );
}

export type MachineCoreParts = {
  readonly id: string;
  readonly process: VmmProcess;
  readonly spawner: Pick<VmmSpawner, "toVmmPath" | "toHostPath">;
  readonly leftovers: readonly Leftover[];
  readonly journal: JournalEntry | undefined;
  /** Makes the client with the hooks of this machine */
  readonly connect: (hooks: {
    toVmmPath: (hostPath: string, use: PathUse) => Promise<string>;
    explainLoss: () => Promise<Error | undefined>;
  }) => FirecrackerClient;
  readonly vsockPath?: string | undefined;
};

export class MachineCore {
  readonly id: string;
  readonly process: VmmProcess;
  readonly client: FirecrackerClient;
  /** Host path of the vsock's socket, once it is known */
  vsockPath: string | undefined;
  readonly #spawner: MachineCoreParts["spawner"];
  readonly #journal: JournalEntry | undefined;
  readonly #leftovers: Leftover[];
  #shutdown: Promise<void> | undefined;
  readonly #cleaned: Promise<void>;

  constructor(parts: MachineCoreParts) {
    this.id = parts.id;
    this.process = parts.process;
    this.#spawner = parts.spawner;
    this.#leftovers = [...parts.leftovers];
    this.#journal = parts.journal;
    this.vsockPath = parts.vsockPath;
    this.client = parts.connect({
      toVmmPath: (path, use) => this.#place(path, use),
      explainLoss: async () => {
        // The socket closes a moment before the process has ended.
        if (!(await endsWithin(this.process, 500))) return undefined;
        return new Promise((resolve) =>
          this.process.onExit((status) => resolve(exitedError(this.process, status))),
        );
      },
    });
    this.#cleaned = new Promise<void>((resolve) => this.process.onExit(() => resolve())).then(() =>
      this.#cleanUp(),
    );
    // Told to whoever waits for it; nobody may.
    this.#cleaned.catch(() => {});
  }

  get isAlive(): boolean {
    return isVmmAlive(this.process.identity);
  }

  /** Written down before it is made; must not exist. */
  async addLeftover(leftover: Leftover, field = "path"): Promise<void> {
    // What another machine made would be removed with this one's.
    if (await exists(leftover.path))
      throw new FirecrackerArgumentError(field, `${leftover.path} exists already`);
    this.#leftovers.push(leftover);
    await this.#journal?.update({ leftovers: this.#leftovers });
  }

  async #place(hostPath: string, use: PathUse): Promise<string> {
    if (use === "bind") {
      await this.addLeftover({ kind: "file", path: hostPath }, "uds_path");
      this.vsockPath = hostPath;
      await this.#journal?.update({ vsockPath: hostPath });
    }
    return this.#spawner.toVmmPath(hostPath, use);
  }

  async #cleanUp(): Promise<void> {
    this.client[Symbol.dispose]();
    await removeLeftovers(this.#leftovers);
    await this.#journal?.remove();
  }

  async loadSnapshot(snapshot: SnapshotLoadOptions, options: CallOptions): Promise<void> {
    const { memory, taps, vsockPath } = snapshot;
    await this.client.loadSnapshot(
      {
        snapshot_path: snapshot.statePath,
        mem_backend:
          "file" in memory
            ? { backend_type: "File", backend_path: memory.file }
            : { backend_type: "Uffd", backend_path: memory.pageFaultSocket },
        ...(taps && {
          network_overrides: Object.entries(taps).map(([iface_id, host_dev_name]) => ({
            iface_id,
            host_dev_name,
          })),
        }),
        ...(vsockPath !== undefined && { vsock_override: { uds_path: vsockPath } }),
        ...(snapshot.advanceClock && { clock_realtime: true }),
        ...(snapshot.trackDirtyPages && { track_dirty_pages: true }),
        ...(snapshot.hugePages && { huge_pages: snapshot.hugePages }),
      },
      options,
    );
    if (vsockPath !== undefined) return;
    const { vsock } = await this.client.vmConfig({ signal: options.signal });
    if (!vsock) return;
    this.vsockPath = this.#spawner.toHostPath(vsock.uds_path);
    this.#leftovers.push({ kind: "file", path: this.vsockPath });
    await this.#journal?.update({ leftovers: this.#leftovers, vsockPath: this.vsockPath });
  }

  whileAlive<T>(promise: Promise<T>): Promise<T> {
    return whileAlive(this.process, promise);
  }

  async wait(signal: AbortSignal | undefined): Promise<ExitStatus> {
    const status = await unlessAborted(this.process.wait(), signal);
    await unlessAborted(
      this.#cleaned.catch(() => {}),
      signal,
    );
    return status;
  }

  async kill(): Promise<void> {
    await killProcess(this.process);
    await this.#cleaned;
  }

  async shutdown(options: ShutdownOptions): Promise<ExitStatus> {
    this.#shutdown ??= this.#end(options);
    await unlessAborted(this.#shutdown, options.signal);
    await this.#cleaned;
    return this.process.wait();
  }

  async #end(options: ShutdownOptions): Promise<void> {
    const { askGuest } = options;
    const ask = async (signal: AbortSignal): Promise<void> => {
      // Devices of a paused VM are frozen, a keyboard among them.
      if ((await this.client.phase({ signal })) !== "running") throw new Error("the guest does not run");
      await (askGuest ? askGuest(signal) : this.client.sendCtrlAltDel({ signal }));
    };
    await endProcess(this.process, ask, options);
  }
}
