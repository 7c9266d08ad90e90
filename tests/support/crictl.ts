/** The real crictl, built by `tools/setup.sh clients`. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";

export const crictlPath: string = join(import.meta.dirname, "../clients/bin/crictl");

export type CrictlResult = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

/** Runs crictl against the daemon at `socket`. */
export function crictl(socket: string, ...args: string[]): CrictlResult {
  const endpoint = `unix://${socket}`;
  const result = spawnSync(
    crictlPath,
    ["--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "60s", ...args],
    { encoding: "utf8", timeout: 120_000 },
  );
  return { code: result.status, stdout: result.stdout, stderr: result.stderr };
}
