/** A machine found again after its first owner has gone: by pid and start time, and by its answering socket. */
import { FirecrackerClient } from "./api-client.ts";
import { FirecrackerLaunchError } from "./errors.ts";
import type { JournalEntry } from "./journal.ts";
import type { Leftover } from "./leftovers.ts";
import { ConfigurableMachine, PausedMachine, RunningMachine } from "./machine.ts";
import { MachineCore } from "./machine-core.ts";
import { isVmmAlive, type VmmIdentity } from "./process-identity.ts";
import type { VmmSpawner } from "./spawner.ts";
import { foundProcess } from "./vmm-process.ts";

/** What is known of a machine that runs. A journal's live record is one. */
export type AdoptOptions = {
  /** Pid and start time */
  readonly identity: VmmIdentity;
  /** Host path */
  readonly apiSocket: string;
  /** The instance's id, checked */
  readonly id: string;
  /** Host path of its vsock's socket. @default what its configuration tells */
  readonly vsockPath?: string | undefined;
  /** What to remove after its end. @default nothing */
  readonly leftovers?: readonly Leftover[];
  /** Its place in a journal */
  readonly journal?: JournalEntry;
  /** Translates paths, for a jailed one */
  readonly spawner?: Pick<VmmSpawner, "toVmmPath" | "toHostPath">;
  /** Gives up. @default after 5 s */
  readonly signal?: AbortSignal;
};

/**
 * Takes over a running VMM, in whichever phase it is (see `phase`).
 * @throws {FirecrackerLaunchError} FC_LAUNCH when that process is gone or is not the one with this id
 */
export async function adoptMachine(
  options: AdoptOptions,
): Promise<ConfigurableMachine | RunningMachine | PausedMachine> {
  const { identity, apiSocket, id } = options;
  const spawner = options.spawner ?? {
    toVmmPath: (path: string) => path,
    toHostPath: (path: string) => path,
  };
  if (!isVmmAlive(identity))
    throw new FirecrackerLaunchError(`process ${identity.pid} (start time ${identity.startTime}) is gone`);
  const signal = options.signal ?? AbortSignal.timeout(5_000);
  const client = new FirecrackerClient(apiSocket);
  try {
    const info = await client.instanceInfo({ signal });
    if (info.id !== id)
      throw new FirecrackerLaunchError(`${apiSocket} answers as instance ${info.id}, not ${id}`);
    let { vsockPath } = options;
    if (vsockPath === undefined) {
      const { vsock } = await client.vmConfig({ signal });
      if (vsock) vsockPath = spawner.toHostPath(vsock.uds_path);
    }
    const core = new MachineCore({
      id,
      process: foundProcess(identity, apiSocket),
      spawner,
      leftovers: options.leftovers ?? [],
      journal: options.journal,
      vsockPath,
      connect: (hooks) => new FirecrackerClient(apiSocket, { ...hooks, vmmVersion: info.vmm_version }),
    });
    if (info.state === "Not started") return new ConfigurableMachine(core);
    return info.state === "Paused" ? new PausedMachine(core) : new RunningMachine(core);
  } finally {
    client[Symbol.dispose]();
  }
}
