/** Firecracker's log as records, from a FIFO of ours. */
import { openRecordFifo, type RecordStream } from "./line-fifo.ts";

/** One line of the log. */
export type LogRecord = {
  /** Local time, ISO 8601 without a zone */
  readonly time: string;
  /** The instance's id */
  readonly instanceId: string;
  /** Name of the VMM's thread: main, fc_api, fc_vcpu 0 */
  readonly thread: string;
  /** With `show_level` */
  readonly level: "ERROR" | "WARN" | "INFO" | "DEBUG" | "TRACE" | undefined;
  /** `file:line`, with `show_log_origin` */
  readonly origin: string | undefined;
  /** The rest of the line */
  readonly message: string;
};

/** Reads `TIME [ID:THREAD:LEVEL:FILE:LINE] MESSAGE`; undefined when it is something else. */
export function parseLogLine(line: string): LogRecord | undefined {
  const match =
    /^(\d{4}-\d\d-\d\dT[\d:.]+) \[([^\]:]*):([^\]:]*)(?::(ERROR|WARN|INFO|DEBUG|TRACE))?(?::([^\]]+:\d+))?\] (.*)$/.exec(
      line,
    );
  if (!match) return undefined;
  const [, time = "", instanceId = "", thread = "", level, origin, message = ""] = match;
  // The pattern allows these levels alone.
  return { time, instanceId, thread, level: level as LogRecord["level"], origin, message };
}

/**
 * Makes a FIFO for PUT /logger and reads it; keeps the last `maxRecords` unread ones.
 * @throws {FirecrackerLaunchError} FC_LAUNCH when the path exists
 */
export function openLogFifo(path: string, maxRecords = 1_000): Promise<RecordStream<LogRecord>> {
  return openRecordFifo(path, parseLogLine, maxRecords);
}
