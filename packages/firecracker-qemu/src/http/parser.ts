// An incremental HTTP/1.1 request parser with Firecracker's rules: four verbs at most, lines of 1024 bytes, a body
// only by Content-Length, and a hard limit to it. It never buffers more than one request's limits allow.

/** One whole request. */
export interface Request {
  readonly method: "GET" | "PUT" | "PATCH" | "DELETE";
  readonly path: string;
  readonly body: string | undefined;
}

/** What the HTTP layer itself refuses; goes out under the key `error`, and the connection ends. */
export class HttpError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "HttpError";
  }
}

const MAX_LINE = 1024;
const MAX_HEADERS = 100;
const METHODS = ["GET", "PUT", "PATCH", "DELETE"] as const;

type Phase =
  | { readonly at: "line" }
  | {
      readonly at: "headers";
      readonly method: Request["method"];
      readonly path: string;
      length: number | undefined;
      expect: boolean;
      count: number;
    }
  | {
      readonly at: "body";
      readonly method: Request["method"];
      readonly path: string;
      readonly length: number;
    };

/** Feed it bytes in any pieces; it hands out requests in order. */
export class RequestParser {
  readonly #maxBody: number;
  readonly #onContinue: () => void;
  #pending: Buffer = Buffer.alloc(0);
  #phase: Phase = { at: "line" };

  constructor(maxBody: number, onContinue: () => void = () => {}) {
    this.#maxBody = maxBody;
    this.#onContinue = onContinue;
  }

  /** The requests that `chunk` completes. @throws {HttpError} when the stream is not HTTP as it has to be */
  *push(chunk: Buffer): Generator<Request> {
    this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    for (;;) {
      const phase = this.#phase;
      if (phase.at === "body") {
        if (this.#pending.length < phase.length) return;
        const body = this.#pending.subarray(0, phase.length).toString("utf8");
        this.#pending = this.#pending.subarray(phase.length);
        this.#phase = { at: "line" };
        yield { method: phase.method, path: phase.path, body };
        continue;
      }
      const line = this.#line();
      if (line === undefined) return;
      if (phase.at === "line") this.#phase = startLine(line);
      else if (line !== "") this.#header(phase, line);
      else {
        const { method, path, length } = phase;
        if (length === undefined || length === 0) {
          this.#phase = { at: "line" };
          yield { method, path, body: undefined };
        } else {
          if (phase.expect && this.#pending.length < length) this.#onContinue();
          this.#phase = { at: "body", method, path, length };
        }
      }
    }
  }

  #line(): string | undefined {
    const end = this.#pending.indexOf("\r\n");
    if (end > MAX_LINE || (end < 0 && this.#pending.length > MAX_LINE + 1))
      throw new HttpError(`A request or header line is longer than ${MAX_LINE} bytes.`);
    if (end < 0) return undefined;
    const line = this.#pending.subarray(0, end).toString("latin1");
    this.#pending = this.#pending.subarray(end + 2);
    return line;
  }

  #header(phase: Extract<Phase, { at: "headers" }>, line: string): void {
    phase.count += 1;
    if (phase.count > MAX_HEADERS) throw new HttpError(`More than ${MAX_HEADERS} headers.`);
    const colon = line.indexOf(":");
    if (colon <= 0) throw new HttpError("Invalid header: no name before a colon.");
    const name = line.slice(0, colon).trim().toLowerCase();
    const value = line.slice(colon + 1).trim();
    if (name === "content-length") {
      if (!/^\d{1,10}$/.test(value)) throw new HttpError("Invalid value of the header Content-Length.");
      const length = Number(value);
      if (phase.length !== undefined && phase.length !== length)
        throw new HttpError("Content-Length is given twice, with different values.");
      if (length > this.#maxBody)
        throw new HttpError(
          `Request payload of ${length} bytes is over the limit of ${this.#maxBody} bytes.`,
        );
      phase.length = length;
    } else if (name === "transfer-encoding" && value.toLowerCase() !== "identity") {
      throw new HttpError("Unsupported header Transfer-Encoding: send a Content-Length.");
    } else if (name === "expect" && value.toLowerCase() === "100-continue") phase.expect = true;
  }
}

function startLine(line: string): Phase {
  const first = line.indexOf(" ");
  const second = line.indexOf(" ", first + 1);
  if (first <= 0 || second < 0) throw new HttpError("Invalid request line.");
  const verb = line.slice(0, first);
  const target = line.slice(first + 1, second);
  const version = line.slice(second + 1);
  const method = METHODS.find((one) => one === verb);
  if (method === undefined) throw new HttpError("Invalid HTTP Method: Unsupported HTTP method.");
  const path = target.startsWith("http://") ? target.slice(7).replace(/^[^/]*/, "") : target;
  if (!path.startsWith("/")) throw new HttpError("Invalid URI: it has to be an absolute path.");
  if (version !== "HTTP/1.1" && version !== "HTTP/1.0")
    throw new HttpError("Invalid HTTP Version: Unsupported HTTP version.");
  return { at: "headers", method, path, length: undefined, expect: false, count: 0 };
}
