// What the program tells about itself: log lines and counters, where PUT /logger and PUT /metrics say.
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { Fault, systemReason } from "../fault.ts";
import type { Logger, Metrics } from "../schema/bodies.ts";
import { type LogLevel, levels } from "../schema/field-syntax.ts";
import { type Counts, metricGroups } from "./metric-groups.ts";

/** Where the metrics' counters of a machine come from: totals since its start */
export type CounterSource = {
  readonly drives: () => readonly string[];
  readonly interfaces: () => readonly string[];
  readonly read: () => Promise<Counts>;
};

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
  #properties: Readonly<Record<string, string>> | undefined;
  /** Latest values, which stay */
  readonly #values = new Map<string, number>();
  #emitsId = false;
  /** Counted here, since the last line */
  readonly #counts = new Map<string, number>();
  /** The source's totals at the last line, and those read since */
  #flushed: Counts = new Map();
  #totals: Counts = new Map();
  source: CounterSource | undefined;

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
  openMetrics({ metrics_path: path, emit_id, properties }: Metrics): void {
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
      throw refuse("it is initialized; no reinitialization.");
    }
    this.#metricsFd = fd;
    this.#emitsId = emit_id;
    this.#properties = properties && Object.fromEntries([...properties].sort());
  }

  /** The machine is there: a line now, and then one every minute. */
  async startMetrics(): Promise<void> {
    await this.flushMetrics();
    setInterval(() => void this.flushMetrics(), metricsEveryMs).unref();
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

  /** Sets a value named `group.name`. */
  store(name: string, value: number): void {
    this.#values.set(name, value);
  }

  /** Adds `by` to a counter named `group.name`. */
  count(name: string, by = 1): void {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + by);
  }

  /** Reads the machine's counters, while it is still there. */
  async readCounters(): Promise<void> {
    try {
      if (this.source !== undefined) this.#totals = await this.source.read();
    } catch {
      // A machine that has just ended: the last ones count.
    }
  }

  #counters(): Counts {
    const all = new Map<string, Map<string, number>>();
    const add = (group: string, field: string, count: number): void => {
      const fields = all.get(group) ?? new Map<string, number>();
      all.set(group, fields.set(field, (fields.get(field) ?? 0) + count));
    };
    for (const [name, count] of [...this.#counts, ...this.#values]) {
      const [group = "", field = ""] = name.split(".");
      add(group, field, count);
    }
    for (const [group, fields] of this.#totals)
      for (const [field, total] of fields)
        add(group, field, total - (this.#flushed.get(group)?.get(field) ?? 0));
    return all;
  }

  /** One JSON line; counters start again from zero, as Firecracker's do. */
  async flushMetrics(): Promise<void> {
    if (this.#metricsFd === undefined) return;
    await this.readCounters();
    this.writeMetrics();
  }

  /** The line of {@link flushMetrics}, of what has been read so far. */
  writeMetrics(): void {
    if (this.#metricsFd === undefined) return;
    const groups = metricGroups(
      this.#counters(),
      this.source?.drives() ?? [],
      this.source?.interfaces() ?? [],
    );
    const properties = this.#properties;
    const line = {
      utc_timestamp_ms: Date.now(),
      ...(this.#emitsId ? { id: this.#id } : {}),
      ...(properties === undefined ? {} : { properties }),
      ...groups,
    };
    try {
      writeSync(this.#metricsFd, `${JSON.stringify(line)}\n`);
      this.#counts.clear();
      this.#flushed = this.#totals;
    } catch {
      // A full FIFO or a reader that has gone: the counters are in the next line.
      this.count("logger.missed_metrics_count");
    }
  }
}
