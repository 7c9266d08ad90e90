/** ExecSync: output is kept up to a cap and drained beyond it, so that the process never blocks on us. */
import { TinderboxError } from "../base/errors.ts";
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { idOf, integer, noNul, required } from "./field-checks.ts";

/** Of stdout and stderr together: the CRI caps the whole response at 16 MB, and kubelet and crictl take no larger message. */
const maxOutputBytes = 16_000_000;
const maxTimeoutSeconds = 2_000_000;

/** The command words of a request, at least one. */
export function commandOf(words: readonly string[]): readonly string[] {
  required("cmd", words[0]);
  return words.map((word, n) => noNul(`cmd[${n}]`, word));
}

/** ExecSync. */
export function execSyncCalls({ engine }: CriContext): RuntimeCalls {
  return {
    execSync: async ({ containerId, cmd, timeout }, { signal }) => {
      const id = idOf("container_id", containerId);
      const timeoutMs = Math.min(integer("timeout", timeout, 0), maxTimeoutSeconds) * 1000;
      const command = commandOf(cmd);
      const streams = await engine.exec(id, {
        command,
        tty: false,
        stdin: false,
        stdout: true,
        stderr: true,
        timeoutMs,
      });
      const close = (): void => streams.close();
      signal.addEventListener("abort", close, { once: true });
      try {
        const kept = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
        let room = maxOutputBytes;
        for await (const { channel, data } of streams.output()) {
          if (room === 0) continue;
          const part = data.subarray(0, room);
          kept[channel].push(part);
          room -= part.length;
        }
        const exit = await streams.exit;
        if (exit.timedOut) {
          throw new TinderboxError(
            "TIMEOUT",
            `${command[0]}: no end within ${timeoutMs / 1000} s; its processes were killed`,
          );
        }
        if (exit.error !== "") throw new TinderboxError("RUNTIME", exit.error);
        return {
          stdout: Buffer.concat(kept.stdout),
          stderr: Buffer.concat(kept.stderr),
          exitCode: exit.code,
        };
      } finally {
        signal.removeEventListener("abort", close);
        close();
      }
    },
  };
}
