// What the program tells about itself: log lines and counters, where PUT /logger and PUT /metrics say.
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { Fault, systemReason } from "../fault.ts";

const levels = ["Off", "Error", "Warning", "Info", "Debug", "Trace"] as const;
export type LogLevel = (typeof levels)[number];

/** The level that `text` names, in any case. */
export function parseLevel(text: string): LogLevel | undefined {
  const lower = text.toLowerCase();
  return lower === "warn" ? "Warning" : levels.find((one) => one.toLowerCase() === lower);
}

export type LoggerSettings = {
  readonly log_path?: string | undefined;
  readonly level?: string | undefined;
  readonly show_level?: boolean | undefined;
  readonly show_log_origin?: boolean | undefined;
};

function openForAppending(path: string): number {
  // A FIFO's reader may not be there yet: never wait for it.
  const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK;
  return openSync(path, flags, 0o600);
}

const metricsEveryMs = 60_000;

/** The log and the metrics of one process. */
export class Observations {
  readonly #id: string;
  #fd = 1;
  #level: LogLevel = "Info";
  #showsLevel = false;
  #metricsFd: number | undefined;
  readonly #counts = new Map<string, number>();

  constructor(id: string) {
    this.#id = id;
  }

  /** @throws {Fault} when the file cannot be opened or the level is not one */
  configureLogger(settings: LoggerSettings): void {
    const level = settings.level === undefined ? this.#level : parseLevel(settings.level);
    if (level === undefined) {
      throw new Fault(
        `unknown variant \`${settings.level}\` in \`level\`, expected one of ${levels.join(", ")}`,
      );
    }
    if (settings.log_path !== undefined) {
      try {
        const fd = openForAppending(settings.log_path);
        if (this.#fd !== 1) closeSync(this.#fd);
        this.#fd = fd;
      } catch (cause) {
        throw new Fault(`Logger config error: ${settings.log_path}: ${systemReason(cause)}`, { cause });
      }
    }
    this.#level = level;
    this.#showsLevel = settings.show_level ?? this.#showsLevel;
  }

  /** @throws {Fault} the second time, and when the file cannot be opened */
  openMetrics(path: string): void {
    if (this.#metricsFd !== undefined)
      throw new Fault("Metrics config error: The metrics system is already configured.");
    try {
      this.#metricsFd = openForAppending(path);
    } catch (cause) {
      throw new Fault(`Metrics config error: ${path}: ${systemReason(cause)}`, { cause });
    }
    setInterval(() => this.flushMetrics(), metricsEveryMs).unref();
  }

  log(level: Exclude<LogLevel, "Off">, text: string): void {
    if (levels.indexOf(level) > levels.indexOf(this.#level)) return;
    const shown = this.#showsLevel ? `:${level.toUpperCase()}` : "";
    const line = `${new Date().toISOString()} [${this.#id}${shown}] ${text}\n`;
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
