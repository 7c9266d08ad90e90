/** How a VMM comes to run, and where its files are for us and for it: plainly here, or in a jail (jailer/). */

import type { Leftover } from "./leftovers.ts";
import type { PathUse } from "./operations.ts";
import type { VmmIdentity } from "./process-identity.ts";
import { checkInstanceId } from "./vmm-arguments.ts";
import type { ExitStatus } from "./vmm-process.ts";

/** A program to be executed. */
export type VmmCommand = {
  /** Program */
  readonly file: string;
  /** Its arguments */
  readonly args: readonly string[];
  /** @default ours */
  readonly env?: NodeJS.ProcessEnv | undefined;
  /** @default ours */
  readonly cwd?: string | undefined;
};

/** A way to start one VMM. Used once. */
export interface VmmSpawner {
  /** 1..64 letters, digits, `-` */
  readonly id: string;
  /** The VMM's program, for `--version` */
  readonly binary: string;
  /** Where we find the API's socket; its folder may be made by the spawn */
  readonly apiSocket: string;
  /** The VMM's root directory on the host, for a jailed one: by it a lost process is known again */
  readonly rootDirectory?: string;
  /** Arguments in a row by which its process is known when it was not yet written down. @default `--id` and the id */
  readonly commandMark?: readonly string[];
  /** The command that starts it with these options; adds `--id` and `--api-sock`. Pure. */
  command(vmmArguments: readonly string[]): VmmCommand;
  /** What the VMM must be told for a host path; a jail puts the file there first. @throws when it cannot be reached from there */
  toVmmPath(hostPath: string, use: PathUse): string | Promise<string>;
  /** Where we find what the VMM calls `vmmPath` */
  toHostPath(vmmPath: string): string;
  /** Makes what must be there before the spawn; `leftovers` are written down before it is called. */
  prepare?(signal?: AbortSignal): Promise<void>;
  /** The VMM, when it is not the spawned process itself (a daemonized jailer). @throws when it does not come */
  findVmm?(
    spawned: { readonly pid: number; readonly exited: Promise<ExitStatus> },
    signal: AbortSignal,
  ): Promise<VmmIdentity>;
  /** All that it makes on the host, in the order it is made */
  leftovers(): readonly Leftover[];
}

/** How to start a VMM without a jail. */
export type DirectSpawnerOptions = {
  /** The VMM: Firecracker or a program with its interface */
  readonly binary: string;
  /** Must not exist, but its folder must; at most 107 bytes */
  readonly apiSocket: string;
  /** 1..64 letters, digits, `-` */
  readonly id: string;
  /** Put before the VMM's own command line; must end by executing it in the same process */
  readonly spawnPrefix?: readonly string[];
  /** @default ours */
  readonly env?: NodeJS.ProcessEnv;
  /** @default ours */
  readonly cwd?: string;
};

/** A VMM as a plain child process; paths are the same for it and for us. @throws {FirecrackerArgumentError} FC_ARGUMENT */
export function directSpawner(options: DirectSpawnerOptions): VmmSpawner {
  const { binary, apiSocket, id, env, cwd } = options;
  checkInstanceId(id);
  const names = ["--api-sock", apiSocket, "--id", id];
  return {
    id,
    binary,
    apiSocket,
    commandMark: names,
    command(vmmArguments) {
      const [file = binary, ...args] = [...(options.spawnPrefix ?? []), binary, ...names, ...vmmArguments];
      return { file, args, env, cwd };
    },
    toVmmPath: (path) => path,
    toHostPath: (path) => path,
    leftovers: () => [{ kind: "file", path: apiSocket }],
  };
}
