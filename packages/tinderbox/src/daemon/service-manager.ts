/** What systemd is told of us: ready, stopping, and that we live (sd_notify(3)). Without systemd it costs nothing. */
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { nativeProgram } from "../base/paths.ts";
import { run } from "../native/run.ts";

export type ServiceManager = {
  /** "READY=1", "STOPPING=1", "STATUS=text" */
  tell(...lines: readonly string[]): Promise<void>;
  /** Says that we live twice in each interval that systemd allows, until it is disposed of. */
  keepAlive(): Disposable;
};

/** The manager that `env` names. */
export function serviceManager(env: NodeJS.ProcessEnv, logger: Logger): ServiceManager {
  const isThere = env["NOTIFY_SOCKET"] !== undefined;
  const tell = async (...lines: readonly string[]): Promise<void> => {
    if (!isThere) return;
    try {
      await run(nativeProgram, ["notify", ...lines], { timeoutMs: 5_000, env });
    } catch (cause) {
      logger.warn("systemd could not be told", {
        lines: lines.join(" "),
        cause: TinderboxError.from(cause).message,
      });
    }
  };
  return {
    tell,
    keepAlive: () => {
      const allowedMs = Number(env["WATCHDOG_USEC"] ?? 0) / 1000;
      const isOurs = env["WATCHDOG_PID"] === undefined || Number(env["WATCHDOG_PID"]) === process.pid;
      if (!isThere || !isOurs || !(allowedMs > 0)) return { [Symbol.dispose]: () => {} };
      const timer = setInterval(() => void tell("WATCHDOG=1"), allowedMs / 2);
      return { [Symbol.dispose]: () => clearInterval(timer) };
    },
  };
}
