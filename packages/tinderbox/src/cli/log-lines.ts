/** The CRI log format: `TIME STREAM TAG TEXT`, where the tag P means that the line goes on. */

export type LogEntry = {
  /** As written: RFC 3339 with nanoseconds */
  readonly time: string;
  readonly stream: "stdout" | "stderr";
  /** With a newline at its end unless the line goes on */
  readonly text: string;
};

/** One line of a log file, without its newline; undefined for what is not one. */
export function parseLogLine(line: string): LogEntry | undefined {
  const match = /^(\S+) (stdout|stderr) ([PF])(?::\S*)? (.*)$/s.exec(line);
  if (match === null) return undefined;
  const [, time = "", stream, tag, text = ""] = match;
  return { time, stream: stream === "stderr" ? "stderr" : "stdout", text: tag === "F" ? `${text}\n` : text };
}

/** Puts pieces together to lines; what remains is the beginning of the next. */
export class LineSplitter {
  #rest: Buffer = Buffer.alloc(0);

  *push(chunk: Buffer): Generator<Buffer> {
    let data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    for (let end = data.indexOf(10); end >= 0; end = data.indexOf(10)) {
      yield data.subarray(0, end);
      data = data.subarray(end + 1);
    }
    this.#rest = Buffer.from(data);
  }
}
