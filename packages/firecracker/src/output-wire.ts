/** Bodies of the logger, metrics and serial endpoints, spelled as on the wire. */
import type { TokenBucketWire } from "./rate-limit-wire.ts";

/** Where the VMM logs, and how much. */
export type LoggerWire = {
  /** File or FIFO; made if missing from 1.14. @default stdout */
  readonly log_path?: string;
  /** @default "Info" */
  readonly level?: "Error" | "Warning" | "Info" | "Debug" | "Trace" | "Off";
  /** @default false */
  readonly show_level?: boolean;
  /** Whether lines tell file and line number. @default false */
  readonly show_log_origin?: boolean;
  /** Only lines of this module path */
  readonly module?: string;
};

/** Once per process; a line of JSON every 60 s, on FlushMetrics and at the end. */
export type MetricsWire = {
  /** File or FIFO; made if missing from 1.14 */
  readonly metrics_path: string;
  /** Whether each line has the instance's id. @default false; since 1.17 */
  readonly emit_id?: boolean;
  /** Told in each line; since 1.17 */
  readonly properties?: Readonly<Record<string, string>>;
};

/** The guest's serial output, since 1.14. Cannot be given in a config file and is not kept in snapshots. */
export type SerialWire = {
  /** File or FIFO, opened at start. @default stdout */
  readonly serial_out_path?: string;
  /** Bytes above it are dropped; since 1.16 */
  readonly rate_limiter?: TokenBucketWire;
};
