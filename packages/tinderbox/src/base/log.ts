/** Structured logging to stderr, one line an event; fields, never interpolated strings. */
import { writeSync } from "node:fs";

export const logLevels = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof logLevels)[number];
export type LogFormat = "text" | "json";
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;

export type Logger = {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to every line. */
  with(fields: LogFields): Logger;
};

/** The level in force; a change counts for every logger that was made with it. */
export type LogThreshold = { level: LogLevel };

export type LogOptions = {
  readonly level: LogLevel | LogThreshold;
  readonly format: LogFormat;
  /** Receives each finished line, newline included. @default standard error */
  readonly write?: (line: string) => void;
};

function textValue(value: string | number | boolean): string {
  return typeof value === "string" && !/^[\w./:@+-]+$/.test(value) ? JSON.stringify(value) : String(value);
}

function formatText(level: LogLevel, message: string, fields: LogFields): string {
  let line = `${new Date().toISOString()} ${level.toUpperCase().padEnd(5)} ${message.replaceAll("\n", "\\n")}`;
  for (const [key, value] of Object.entries(fields))
    if (value !== undefined) line += ` ${key}=${textValue(value)}`;
  return `${line}\n`;
}

function formatJson(level: LogLevel, message: string, fields: LogFields): string {
  return `${JSON.stringify({ time: new Date().toISOString(), level, msg: message, ...fields })}\n`;
}

/** Makes a logger that drops lines below `options.level`. */
export function createLogger(options: LogOptions, base: LogFields = {}): Logger {
  const threshold = typeof options.level === "string" ? { level: options.level } : options.level;
  const format = options.format === "json" ? formatJson : formatText;
  const write = options.write ?? ((line: string) => void writeSync(2, line));
  const at =
    (level: LogLevel) =>
    (message: string, fields: LogFields = {}): void => {
      if (logLevels.indexOf(level) >= logLevels.indexOf(threshold.level))
        write(format(level, message, { ...base, ...fields }));
    };
  return {
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    with: (fields) => createLogger(options, { ...base, ...fields }),
  };
}
