/** The version of a VMM's program, before it runs as a VMM. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { FirecrackerLaunchError } from "./errors.ts";

const run = promisify(execFile);

/** What `BINARY --version` tells, such as `1.16.1`. @throws {FirecrackerLaunchError} FC_LAUNCH */
export async function readVmmVersion(binary: string, signal?: AbortSignal): Promise<string> {
  const { stdout } = await run(binary, ["--version"], {
    ...(signal && { signal }),
    timeout: 10_000,
    maxBuffer: 65_536,
  }).catch((cause: Error) => {
    signal?.throwIfAborted();
    throw new FirecrackerLaunchError(`${binary} --version: ${cause.message}`, cause);
  });
  const version = /v(\d+\.\d+\.\d+\S*)/.exec(stdout)?.[1];
  if (version === undefined)
    throw new FirecrackerLaunchError(
      `${binary} --version tells no version: ${JSON.stringify(stdout.slice(0, 200))}`,
    );
  return version;
}
