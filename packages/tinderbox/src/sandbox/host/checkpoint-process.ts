/** `tinderbox-native checkpoint`: the process that stops a container, has it dumped, and writes the archive. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { TinderboxError } from "../../base/errors.ts";
import { nativeProgram } from "../../base/paths.ts";
import { identifyProcess, type ProcessIdentity, signalProcess } from "../../base/process-identity.ts";
import { tryRun } from "../../native/run.ts";
import type { ContainerFiles } from "../contract.ts";

export type CheckpointProcess = {
  readonly containerId: string;
  readonly files: ContainerFiles;
  /** Paths in the container that are mounts, not changes of its root file system */
  readonly mountPoints: readonly string[];
  /** Where the parts of the archive are made, and what is in it already is one; empty in the end */
  readonly directory: string;
  /** An open file for the archive */
  readonly output: number;
  readonly onStart: (identity: ProcessIdentity) => Promise<void>;
  readonly signal: AbortSignal;
};

const maxSaidBytes = 64 << 10;

/** How long whatever a checkpoint has started may take to let go of the container */
const letGoMs = 45_000;

/** Waits for the runtime and CRIU of one that was killed: they are in its process group, and end by themselves. */
async function groupEnded(leader: number): Promise<void> {
  for (let waited = 0; waited < letGoMs; waited += 20) {
    try {
      process.kill(-leader, 0);
    } catch {
      return;
    }
    await delay(20);
  }
}

/** Lets a container go on that a killed checkpoint left standing; fine when it runs or is gone. */
export async function resumeContainer(
  { runtime, runtimeRoot }: ContainerFiles,
  containerId: string,
): Promise<void> {
  await tryRun(runtime, ["--root", runtimeRoot, "resume", containerId]).catch(() => {});
}

/**
 * Runs it to its end. When `signal` aborts it is asked to end, which it does once the container goes on.
 * @throws RUNTIME with what it said
 */
export async function runCheckpoint(what: CheckpointProcess): Promise<void> {
  const { containerId, files, directory, signal } = what;
  signal.throwIfAborted();
  const args = ["checkpoint", "--runtime", files.runtime, "--root", files.runtimeRoot, "--id", containerId];
  args.push("--bundle", files.bundle, "--upper", files.upper, "--directory", directory);
  for (const path of what.mountPoints) args.push("--skip", path);
  // In a session of its own: a terminal's ^C for the daemon must not cut it short.
  const child = spawn(nativeProgram, args, { stdio: ["ignore", what.output, "pipe"], detached: true });
  const said: Buffer[] = [];
  let kept = 0;
  child.stderr?.on("data", (chunk: Buffer) => {
    if (kept < maxSaidBytes) said.push(chunk.subarray(0, maxSaidBytes - kept));
    kept += chunk.length;
  });
  const ended = once(child, "close");
  const identity = child.pid === undefined ? undefined : identifyProcess(child.pid);
  const stop = (): void => void child.kill("SIGTERM");
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  try {
    if (identity) await what.onStart(identity);
  } catch (cause) {
    stop();
    await ended.catch(() => {});
    throw cause;
  }
  const [code, killedBy]: readonly unknown[] = await ended.finally(() =>
    signal.removeEventListener("abort", stop),
  );
  if (code === 0) return;
  if (killedBy !== null) {
    if (identity) await groupEnded(identity.pid);
    await resumeContainer(files, containerId);
  }
  const text = Buffer.concat(said)
    .toString("utf8")
    .trim()
    .replace(/^tinderbox-native checkpoint: /gm, "");
  throw new TinderboxError(
    "RUNTIME",
    killedBy === null ? text || `exit status ${code}` : `killed by ${killedBy}`,
  );
}

/** Ends one that outlived its daemon; the container goes on afterwards. */
export async function endCheckpoint(
  files: ContainerFiles,
  containerId: string,
  identity: ProcessIdentity | undefined,
): Promise<void> {
  if (identity) {
    signalProcess(identity, "SIGTERM");
    await groupEnded(identity.pid);
  }
  await resumeContainer(files, containerId);
}
