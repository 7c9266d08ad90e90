/** tinderboxd: flags, configuration, one daemon a root, signals. */
import { chmodSync, mkdirSync, statSync } from "node:fs";
import { errorTable, TinderboxError } from "../base/errors.ts";
import { createLogger, type Logger, type LogThreshold } from "../base/log.ts";
import { tinderboxVersion } from "../base/version.ts";
import type { DaemonConfig } from "./config.ts";
import { type DaemonOptions, daemonUsage, parseDaemonOptions } from "./daemon-options.ts";
import { loadConfig } from "./load-config.ts";
import { applyConfig, type Live } from "./reload.ts";
import { lockRoot } from "./root-lock.ts";
import { serviceManager } from "./service-manager.ts";
import { spareMemory } from "./spare-memory.ts";
import { warnOfEscapes } from "./warn-of-escapes.ts";
import { startDaemon } from "./wire.ts";

function withOverrides(config: DaemonConfig, options: DaemonOptions): DaemonConfig {
  const state = options.state ?? config.state;
  // A state directory of its own brings a socket of its own.
  const listen = options.listen ?? (options.state === undefined ? config.listen : `${state}/tinderbox.sock`);
  return { ...config, root: options.root ?? config.root, state, listen };
}

/** What containers are given, secrets too, is kept below it: for root only, also where somebody made it before (CVE-2021-41103). */
function makePrivate(name: "root" | "state", directory: string, wanted: 0o700 | 0o711, logger: Logger): void {
  try {
    mkdirSync(directory, { recursive: true, mode: wanted });
  } catch (cause) {
    const { message } = TinderboxError.from(cause);
    throw new TinderboxError("CONFIG", `--${name} or ${name}: ${JSON.stringify(directory)}: ${message}`, {
      cause,
    });
  }
  const mode = statSync(directory).mode & 0o777;
  if (mode === wanted) return;
  chmodSync(directory, wanted);
  if ((mode & 0o77 & ~wanted) !== 0)
    logger.warn("others could enter this directory; now only root can", {
      directory,
      mode: mode.toString(8),
    });
}

/** Resolves with the reason when the daemon is asked to end. */
function endAsked(options: DaemonOptions): Promise<string> {
  return new Promise((resolve) => {
    for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => resolve(name));
    if (!options.exitWithParent) return;
    process.stdin.on("end", () => resolve("standard input has ended"));
    process.stdin.on("error", () => resolve("standard input has failed"));
    process.stdin.resume();
  });
}

async function serve(options: DaemonOptions): Promise<void> {
  const config = withOverrides(loadConfig(options.config), options);
  const defaultLevel = options.logLevel ?? "info";
  const threshold: LogThreshold = { level: options.logLevel ?? config.logLevel ?? defaultLevel };
  const logger = createLogger({ level: threshold, format: options.logFormat });
  makePrivate("root", config.root, 0o700, logger);
  // Can be passed through, not looked into: the root file system of a pod with a user namespace is below it.
  makePrivate("state", config.state, 0o711, logger);
  using _lock = lockRoot(config.root);
  process.on("uncaughtException", (cause) => {
    // The next daemon finds the pods again; going on with broken state would be worse.
    logger.error("fault in the daemon, ending", { error: cause.message, stack: cause.stack });
    process.exit(1);
  });
  const asked = endAsked(options);
  const live: Live = { threshold, images: config.images };
  process.on("SIGHUP", () => {
    try {
      const next = withOverrides(loadConfig(options.config), options);
      const logLevel = options.logLevel ?? next.logLevel;
      applyConfig(config, { ...next, logLevel }, live, defaultLevel, logger);
    } catch (cause) {
      logger.error("the configuration was not read again; the one before goes on", {
        cause: TinderboxError.from(cause).message,
      });
    }
  });
  await using _daemon = await startDaemon(config, () => live.images, logger);
  const manager = serviceManager(process.env, logger);
  logger.info("listening", {
    socket: config.listen,
    root: config.root,
    version: tinderboxVersion,
    pid: process.pid,
  });
  await manager.tell("READY=1", `STATUS=listening on ${config.listen}`);
  using _alive = manager.keepAlive();
  void warnOfEscapes(config.runtimes, logger);
  using _spare = spareMemory(logger);
  const reason = await asked;
  logger.info("ending; pods keep running", { reason });
  await manager.tell("STOPPING=1");
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
