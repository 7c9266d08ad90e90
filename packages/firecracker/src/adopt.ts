/** A machine found again after its first owner has gone: by pid and start time, and by its answering socket. */
import { FirecrackerClient } from "./api-client.ts";
import { FirecrackerLaunchError } from "./errors.ts";
import { type ExitStatus, Machine } from "./machine.ts";
import { isVmmAlive, type VmmIdentity } from "./process-identity.ts";

/**
 * Takes over a running VMM. Its end can only be noticed, not awaited by the kernel's word: the process is no child
 * of ours, so `wait` looks every 100 ms, and only while somebody waits.
 * @throws {FirecrackerLaunchError} FC_LAUNCH when that process is gone or is not the one with this id
 */
export async function adoptMachine(options: {
  readonly identity: VmmIdentity;
  readonly apiSocket: string;
  readonly id: string;
  readonly signal?: AbortSignal;
}): Promise<Machine> {
  const { identity } = options;
  if (!isVmmAlive(identity))
    throw new FirecrackerLaunchError(`process ${identity.pid} (start time ${identity.startTime}) is gone`);
  const api = new FirecrackerClient(options.apiSocket);
  const info = await api.instanceInfo(options.signal ?? AbortSignal.timeout(5_000));
  if (info.id !== options.id) {
    api[Symbol.dispose]();
    throw new FirecrackerLaunchError(
      `${options.apiSocket} answers as instance ${info.id}, not ${options.id}`,
    );
  }
  let exit: Promise<ExitStatus> | undefined;
  return new Machine(
    identity,
    api,
    () => (exit ??= vanished(identity)),
    () => "",
  );
}

async function vanished(identity: VmmIdentity): Promise<ExitStatus> {
  while (isVmmAlive(identity)) await new Promise((resolve) => setTimeout(resolve, 100));
  return { exitCode: null, signal: null };
}
