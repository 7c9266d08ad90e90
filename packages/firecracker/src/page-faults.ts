/**
 * A handler of page faults for a restored machine (UFFD). The VMM hands over its file descriptor on a unix socket, and
 * Node cannot receive descriptors: the handler has to be a program of its own, which listens on the socket's path.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { FirecrackerLaunchError, FirecrackerTimeoutError } from "./errors.ts";
import { type Leftover, removeLeftovers } from "./leftovers.ts";
import { exists } from "./machine-core.ts";
import { vmmIdentity } from "./process-identity.ts";
import { killProcess } from "./shutdown.ts";
import { isListed, socketReady } from "./socket-ready.ts";
import { childProcess, type ExitStatus, whileAlive } from "./vmm-process.ts";

/** What to start as the handler. */
export type PageFaultHandlerOptions = {
  /** Host path of the socket that it shall listen on, bound by this very name; must not exist */
  readonly socketPath: string;
  /** Program */
  readonly file: string;
  /** Its arguments, the socket's path among them */
  readonly args: readonly string[];
  /** ms until it must listen. @default 10_000 */
  readonly readyTimeoutMs?: number;
  /** Gives up */
  readonly signal?: AbortSignal;
};

/** A running handler. Without it the guest stands still at its next fault: it must outlive the machine. */
export type PageFaultHandler = AsyncDisposable & {
  /** Of the handler */
  readonly pid: number;
  /** For `memory.pageFaultSocket` */
  readonly socketPath: string;
  /** How it ended */
  wait(): Promise<ExitStatus>;
};

/**
 * Starts a handler and waits until it listens.
 * @throws {FirecrackerLaunchError} FC_LAUNCH when it cannot be started or its path exists
 * @throws {FirecrackerExitedError} FC_EXITED when it ends before it listens
 * @throws {FirecrackerTimeoutError} FC_TIMEOUT
 */
export async function spawnPageFaultHandler(options: PageFaultHandlerOptions): Promise<PageFaultHandler> {
  const { socketPath, file, args, signal } = options;
  if (await exists(socketPath)) throw new FirecrackerLaunchError(`${socketPath} exists already`);
  const leftovers: Leftover[] = [{ kind: "file", path: socketPath }];
  const child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"], detached: true });
  await once(child, "spawn").catch((cause: Error) => {
    throw new FirecrackerLaunchError(`${file}: ${cause.message}`, cause);
  });
  const pid = child.pid ?? 0;
  const handler = childProcess(child, vmmIdentity(pid) ?? { pid, startTime: "ended" });
  const end = async (): Promise<void> => {
    await killProcess(handler);
    await removeLeftovers(leftovers);
  };
  const settled = new AbortController();
  const milliseconds = options.readyTimeoutMs ?? 10_000;
  const timeout = AbortSignal.timeout(milliseconds);
  const limits = [settled.signal, timeout, ...(signal ? [signal] : [])];
  try {
    await whileAlive(
      handler,
      // Not by connecting: a handler accepts one connection, the VMM's.
      socketReady(socketPath, AbortSignal.any(limits), isListed),
    );
  } catch (cause) {
    await end();
    if (timeout.aborted && !signal?.aborted)
      throw new FirecrackerTimeoutError(
        `${file}: does not listen on ${socketPath} after ${milliseconds} ms`,
        cause,
      );
    throw cause;
  } finally {
    settled.abort();
  }
  return { pid, socketPath, wait: () => handler.wait(), [Symbol.asyncDispose]: end };
}
