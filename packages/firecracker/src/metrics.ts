/** Metrics as records, from a FIFO of ours. */
import { openRecordFifo, type RecordStream } from "./line-fifo.ts";
import type { MetricsRecordWire } from "./metrics-wire.ts";

/** One line of metrics; undefined when it is none. */
export function parseMetricsLine(line: string): MetricsRecordWire | undefined {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value !== "object" || value === null || !("utc_timestamp_ms" in value)) return undefined;
    // The rest is the VMM's promise for its version.
    return typeof value.utc_timestamp_ms === "number" ? (value as MetricsRecordWire) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Makes a FIFO for PUT /metrics and reads it; keeps the last `maxRecords` unread ones.
 * @throws {FirecrackerLaunchError} FC_LAUNCH when the path exists
 */
export function openMetricsFifo(path: string, maxRecords = 1_000): Promise<RecordStream<MetricsRecordWire>> {
  return openRecordFifo(path, parseMetricsLine, maxRecords);
}
