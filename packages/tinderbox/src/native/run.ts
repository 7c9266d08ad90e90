/** Runs a program to its end with bounded output: the one place where the node software spawns short commands. */
import { spawn } from "node:child_process";
import { basename } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { span } from "../base/trace.ts";

export type RunOptions = {
  readonly signal?: AbortSignal;
  /** @default 60_000 */
  readonly timeoutMs?: number;
  readonly input?: string | Uint8Array;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Bytes kept of each output; the rest is dropped. @default 1 MiB */
  readonly maxOutputBytes?: number;
  /** It is killed together with what it has started. @default false */
  readonly ownsGroup?: boolean;
};

export type RunResult = { readonly code: number; readonly stdout: string; readonly stderr: string };

/** Runs `file` with `args` (no shell) and returns whatever its exit status; throws when it cannot start, times out or dies by a signal. */
export function tryRun(file: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  return span(
    "run",
    () => [basename(file), ...args].join(" "),
    () => runToItsEnd(file, args, options),
  );
}

async function runToItsEnd(file: string, args: readonly string[], options: RunOptions): Promise<RunResult> {
  const limit = options.maxOutputBytes ?? 1 << 20;
  const timeout = AbortSignal.timeout(options.timeoutMs ?? 60_000);
  const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const { env, cwd, ownsGroup = false } = options;
    const child = spawn(file, args, { stdio: ["pipe", "pipe", "pipe"], env, cwd, detached: ownsGroup });
    const outputs = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
    for (const name of ["stdout", "stderr"] as const) {
      let kept = 0;
      child[name].on("data", (chunk: Buffer) => {
        if (kept < limit) outputs[name].push(chunk.subarray(0, limit - kept));
        kept += chunk.length;
      });
    }
    const onAbort = (): void => {
      if (!ownsGroup || child.pid === undefined) return void child.kill("SIGKILL");
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // All of it has ended.
      }
    };
    signal.addEventListener("abort", onAbort, { once: true });
    child.once("error", (cause) => {
      signal.removeEventListener("abort", onAbort);
      const missing = errnoOf(cause) === "ENOENT";
      reject(
        new TinderboxError(
          missing ? "TOOL_MISSING" : "TOOL_FAILED",
          `${file}: ${missing ? "not found on PATH" : cause.message}`,
          { cause },
        ),
      );
    });
    child.once("close", (code, killedBy) => {
      signal.removeEventListener("abort", onAbort);
      const stdout = Buffer.concat(outputs.stdout).toString("utf8");
      const stderr = Buffer.concat(outputs.stderr).toString("utf8");
      if (code !== null) return resolve({ code, stdout, stderr });
      const why = timeout.aborted
        ? `no end after ${options.timeoutMs ?? 60_000} ms`
        : `killed by ${killedBy}`;
      reject(
        new TinderboxError(
          timeout.aborted ? "TIMEOUT" : signal.aborted ? "ABORTED" : "TOOL_FAILED",
          `${file}: ${why}: ${stderr.trim()}`,
        ),
      );
    });
    child.stdin.on("error", () => {});
    child.stdin.end(options.input);
  });
}

/** As `tryRun`, but a non-zero exit status throws TOOL_FAILED with the command's last error lines. */
export async function run(file: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await tryRun(file, args, options);
  if (result.code !== 0) {
    const said = (result.stderr.trim() || result.stdout.trim()).split("\n").slice(-5).join("\n");
    throw new TinderboxError("TOOL_FAILED", `${file} ${args.join(" ")}: exit status ${result.code}: ${said}`);
  }
  return result.stdout;
}
