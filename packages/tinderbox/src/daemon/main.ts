/** tinderboxd: flags, configuration, one daemon a root, signals. */
import { mkdirSync } from "node:fs";
import { errorTable, TinderboxError } from "../base/errors.ts";
import { createLogger, type Logger } from "../base/log.ts";
import { tinderboxVersion } from "../cri/runtime-status.ts";
import { tryRun } from "../native/run.ts";
import type { DaemonConfig } from "./config.ts";
import { type DaemonOptions, daemonUsage, parseDaemonOptions } from "./daemon-options.ts";
import { loadConfig } from "./load-config.ts";
import { lockRoot } from "./root-lock.ts";
import { startDaemon } from "./wire.ts";

function withOverrides(config: DaemonConfig, options: DaemonOptions): DaemonConfig {
  const state = options.state ?? config.state;
  // A state directory of its own brings a socket of its own.
  const listen = options.listen ?? (options.state === undefined ? config.listen : `${state}/tinderbox.sock`);
  return { ...config, root: options.root ?? config.root, state, listen };
}

/** Resolves with the reason when the daemon is asked to end. */
function endAsked(options: DaemonOptions): Promise<string> {
  return new Promise((resolve) => {
    for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => resolve(name));
    process.on("SIGHUP", () => {});
    if (!options.exitWithParent) return;
    process.stdin.on("end", () => resolve("standard input has ended"));
    process.stdin.on("error", () => resolve("standard input has failed"));
    process.stdin.resume();
  });
}

async function notifySystemd(logger: Logger): Promise<void> {
  if (process.env["NOTIFY_SOCKET"] === undefined) return;
  const result = await tryRun("systemd-notify", ["--ready", `--pid=${process.pid}`], {
    timeoutMs: 5000,
  }).catch(TinderboxError.from);
  if (result instanceof TinderboxError || result.code !== 0)
    logger.warn("systemd could not be told that we are ready");
}

function makeDirectory(name: string, path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (cause) {
    const { message } = TinderboxError.from(cause);
    throw new TinderboxError("CONFIG", `--${name} or ${name}: ${JSON.stringify(path)}: ${message}`, {
      cause,
    });
  }
}

async function serve(options: DaemonOptions): Promise<void> {
  const logger = createLogger({ level: options.logLevel, format: options.logFormat });
  const config = withOverrides(loadConfig(options.config), options);
  for (const name of ["root", "state"] as const) makeDirectory(name, config[name]);
  using _lock = lockRoot(config.root);
  process.on("uncaughtException", (cause) => {
    // The next daemon finds the pods again; going on with broken state would be worse.
    logger.error("fault in the daemon, ending", { error: cause.message, stack: cause.stack });
    process.exit(1);
  });
  const asked = endAsked(options);
  await using _daemon = await startDaemon(config, logger);
  logger.info("listening", {
    socket: config.listen,
    root: config.root,
    version: tinderboxVersion,
    pid: process.pid,
  });
  await notifySystemd(logger);
  logger.info("ending; pods keep running", { reason: await asked });
}

async function main(): Promise<number> {
  try {
    const options = parseDaemonOptions(process.argv.slice(2));
    if (options.ask === "help") process.stdout.write(daemonUsage);
    else if (options.ask === "version") process.stdout.write(`tinderboxd ${tinderboxVersion}\n`);
    else await serve(options);
    return 0;
  } catch (thrown) {
    const error = TinderboxError.from(thrown);
    const hint = error.hint === undefined ? "" : `\nHint: ${error.hint}`;
    process.stderr.write(`tinderboxd: ${error.message}${hint}\n`);
    if (!(thrown instanceof TinderboxError) && error.stack !== undefined)
      process.stderr.write(`${error.stack}\n`);
    return errorTable[error.code].exit;
  }
}

// Handles that are still open (a stream in flight) must not keep a daemon that was asked to end.
process.exit(await main());
