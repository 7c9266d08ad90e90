/** A VMM's process: a child of ours, or one found by its pid (after our restart, or made by a daemonized jailer). */
import type { ChildProcess } from "node:child_process";
import { createConnection, type Socket } from "node:net";
import type { Writable } from "node:stream";
import { FirecrackerExitedError } from "./errors.ts";
import { OutputLog } from "./output-log.ts";
import { isVmmAlive, type VmmIdentity } from "./process-identity.ts";

/** How a process ended; both null when nobody can know, since it was no child of ours. */
export type ExitStatus = {
  /** null when a signal ended it */
  readonly exitCode: number | null;
  /** null when it ended by itself */
  readonly signal: NodeJS.Signals | null;
};

/** One process, until its end. */
export interface VmmProcess {
  /** Pid and start time */
  readonly identity: VmmIdentity;
  /** What it wrote; undefined when that goes elsewhere */
  readonly stdout: OutputLog | undefined;
  /** As stdout */
  readonly stderr: OutputLog | undefined;
  /** The serial console's input, when asked for */
  readonly stdin: Writable | undefined;
  /** Resolves at its end; keeps our own process alive meanwhile. */
  wait(): Promise<ExitStatus>;
  /** Calls back at its end, at once if that has been; the function returned takes it back. */
  onExit(listener: (status: ExitStatus) => void): () => void;
}

/** Remembers the end, and tells it once to everybody who asked. */
class Ending {
  #status: ExitStatus | undefined;
  readonly #listeners = new Set<(status: ExitStatus) => void>();

  report(status: ExitStatus): void {
    if (this.#status !== undefined) return;
    this.#status = status;
    for (const listener of [...this.#listeners]) listener(status);
    this.#listeners.clear();
  }

  onExit(listener: (status: ExitStatus) => void): () => void {
    if (this.#status !== undefined) listener(this.#status);
    else this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}

/** A child of ours. Its identity must be known, so it has been spawned. */
export function childProcess(child: ChildProcess, identity: VmmIdentity): VmmProcess {
  const ending = new Ending();
  const log = (stream: NodeJS.ReadableStream | null): OutputLog | undefined => {
    if (stream === null) return undefined;
    const output = new OutputLog();
    stream.on("data", (chunk: Buffer) => output.push(chunk));
    stream.once("close", () => output.finish());
    return output;
  };
  const [stdout, stderr] = [log(child.stdout), log(child.stderr)];
  const done = (exitCode: number | null, signal: NodeJS.Signals | null): void =>
    ending.report({ exitCode, signal });
  if (child.exitCode !== null || child.signalCode !== null) done(child.exitCode, child.signalCode);
  else {
    // Its last words come before "close", which a grandchild that holds the pipe could keep back for ever.
    child.once("close", done);
    child.once("exit", (exitCode, signal) =>
      setTimeout(done, child.stdout === null ? 0 : 500, exitCode, signal),
    );
  }
  // An input that the VMM no longer reads is no reason to end the program.
  child.stdin?.on("error", () => {});
  child.on("error", () => {});
  child.unref();
  return {
    identity,
    stdout,
    stderr,
    stdin: child.stdin ?? undefined,
    wait: () => {
      child.ref();
      return new Promise((resolve) => ending.onExit(resolve));
    },
    onExit: (listener) => ending.onExit(listener),
  };
}

/**
 * A process that is no child of ours. Its end is seen by a connection to its API, held open (one of the ten it
 * allows), which the kernel closes with it; only where none can be had is it looked for, every 100 ms.
 */
export function foundProcess(
  identity: VmmIdentity,
  apiSocket: string,
  outputs?: Pick<VmmProcess, "stdout" | "stderr">,
): VmmProcess {
  const ending = new Ending();
  let connection: Socket | undefined;
  let timer: NodeJS.Timeout | undefined;
  let isKept = false;
  const follow = (waitMs: number): void => {
    const socket = createConnection(apiSocket);
    connection = socket;
    if (!isKept) socket.unref();
    let nextMs = Math.min(100, waitMs * 2);
    socket.on("error", () => {}).resume();
    socket.once("connect", () => {
      nextMs = 1;
    });
    socket.once("close", () => {
      if (!isVmmAlive(identity)) return ending.report({ exitCode: null, signal: null });
      timer = setTimeout(follow, waitMs, nextMs);
      if (!isKept) timer.unref();
    });
  };
  follow(1);
  return {
    identity,
    stdout: outputs?.stdout,
    stderr: outputs?.stderr,
    stdin: undefined,
    wait: () => {
      isKept = true;
      connection?.ref();
      timer?.ref();
      return new Promise((resolve) => ending.onExit(resolve));
    },
    onExit: (listener) => ending.onExit(listener),
  };
}

/** Why a VMM that was still needed is gone. */
export function exitedError(
  process: VmmProcess,
  { exitCode, signal }: ExitStatus,
  cause?: unknown,
): FirecrackerExitedError {
  const said = [process.stdout, process.stderr].map((output) => output?.tail() ?? "").join("");
  return new FirecrackerExitedError(exitCode, signal, said, cause);
}

/** `promise`, or FC_EXITED as soon as the process ends. Leaves no listener behind. */
export function whileAlive<T>(process: VmmProcess, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const forget = process.onExit((status) => reject(exitedError(process, status)));
    promise.then(resolve, reject).finally(forget);
  });
}

/** Whether the process ends within `ms`; 0 = looks once. */
export function endsWithin(process: VmmProcess, ms: number): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      forget();
      resolve(!isVmmAlive(process.identity));
    }, ms);
    const forget = process.onExit(() => {
      clearTimeout(timer);
      resolve(true);
    });
  });
}
