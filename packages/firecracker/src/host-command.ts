/** Runs one of the host's own programs (`ip`, `mount`, `cp`) with an argument array; there is no shell and no input. */
import { execFile } from "node:child_process";

/** A program that ended badly or could not be started; `message` is the end of what it wrote to its standard error. */
export class HostCommandError extends Error {
  /** ENOENT when there is no such program; undefined when it ran */
  readonly reason: string | undefined;

  constructor(file: string, args: readonly string[], stderr: string, cause: Error) {
    const reason = "code" in cause && typeof cause.code === "string" ? cause.code : undefined;
    const said = stderr.trim().slice(-1000);
    super(`${[file, ...args].join(" ")}: ${said === "" ? (reason ?? cause.message) : said}`, { cause });
    this.name = "HostCommandError";
    this.reason = reason;
  }
}

/** Its standard output, at most 8 MiB. @throws {HostCommandError} when its exit status is not 0 */
export function runHostCommand(file: string, args: readonly string[], signal?: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    // The messages are matched in places, so they must not be translated.
    const env = { PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" };
    execFile(file, args, { env, maxBuffer: 8 << 20, signal }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else if (signal?.aborted) reject(signal.reason);
      else reject(new HostCommandError(file, args, stderr, error));
    });
  });
}
