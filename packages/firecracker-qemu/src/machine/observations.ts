// What the program tells about itself: log lines and counters, where PUT /logger and PUT /metrics say.
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { Fault, systemReason } from "../fault.ts";
import type { Logger, Metrics } from "../schema/bodies.ts";
import { type LogLevel, levels } from "../schema/field-syntax.ts";

/** What is not said stays as it is, but for the level. */
export type LoggerSettings = Partial<Logger>;

const defaultLevel = "Info";

function openForAppending(path: string): number {
  // A FIFO's reader may not be there yet: never wait for it.
  const flags = constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK;
  return openSync(path, flags, 0o600);
}

const metricsEveryMs = 60_000;
/** What `module` filters by, and `show_log_origin` shows: this program has one module. */
const module = "firecracker_qemu";
const levelNames = { Error: "ERROR", Warning: "WARN", Info: "INFO", Debug: "DEBUG", Trace: "TRACE" };

/** The log and the metrics of one process. */
export class Observations {
  readonly #id: string;
  #fd = 1;
  #level: LogLevel = defaultLevel;
  #showsLevel = false;
  #showsOrigin = false;
  #module: string | undefined;
  #metricsFd: number | undefined;
  readonly #counts = new Map<string, number>();

  constructor(id: string) {
    this.#id = id;
  }

  /** A level that is not given is Info again. @throws {Fault} when the file cannot be opened */
  configureLogger(settings: LoggerSettings): void {
    if (settings.log_path !== undefined) {
      try {
        const fd = openForAppending(settings.log_path);
        if (this.#fd !== 1) closeSync(this.#fd);
        this.#fd = fd;
      } catch (cause) {
        throw new Fault(`Logger error: Failed to open target file: ${systemReason(cause)}`, { cause });
      }
    }
    this.#level = settings.level ?? defaultLevel;
    this.#showsLevel = settings.show_level ?? this.#showsLevel;
    this.#showsOrigin = settings.show_log_origin ?? this.#showsOrigin;
    this.#module = settings.module ?? this.#module;
  }

  /** @throws {Fault} the second time, and when the file cannot be opened */
  openMetrics({ metrics_path: path }: Metrics): void {
    const refuse = (why: string, cause?: unknown): Fault =>
      new Fault(`Metrics error: Cannot initialize the metrics system due to bad user input: ${why}`, {
        cause,
      });
    let fd: number;
    try {
      fd = openForAppending(path);
    } catch (cause) {
      throw refuse(systemReason(cause), cause);
    }
    if (this.#metricsFd !== undefined) {
      closeSync(fd);
      throw refuse("it is already initialized.");
    }
    this.#metricsFd = fd;
    setInterval(() => this.flushMetrics(), metricsEveryMs).unref();
  }

  /** One line, if the level and the module filter let it through; `thread` is who says it. */
  log(level: Exclude<LogLevel, "Off">, text: string, thread = "fc_api"): void {
    if (levels.indexOf(level) > levels.indexOf(this.#level)) return;
    if (this.#module !== undefined && !module.startsWith(this.#module)) return;
    const shown = this.#showsLevel ? `:${levelNames[level]}` : "";
    const origin = this.#showsOrigin ? `:${module}` : "";
    const now = new Date().toISOString().replace("Z", "000000");
    const line = `${now} [${this.#id}:${thread}${shown}${origin}] ${text}\n`;
    try {
      writeSync(this.#fd, line);
    } catch {
      this.count("logger.missed_log_count");
    }
  }

  /** Adds one to a counter named `group.name`. */
  count(name: string): void {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
  }

  /** One JSON line; counters start again from zero, as Firecracker's do. */
  flushMetrics(): void {
    if (this.#metricsFd === undefined) return;
    const groups: Record<string, Record<string, number>> = {};
    for (const [name, count] of this.#counts) {
      const [group = "", field = ""] = name.split(".");
      groups[group] = { ...groups[group], [field]: count };
    }
    try {
      writeSync(this.#metricsFd, `${JSON.stringify({ utc_timestamp_ms: Date.now(), ...groups })}\n`);
      this.#counts.clear();
    } catch {
      // A full FIFO or a reader that has gone: the counters are in the next line.
      this.count("logger.missed_metrics_count");
    }
  }
}
