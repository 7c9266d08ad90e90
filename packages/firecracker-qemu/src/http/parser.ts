// Firecracker's HTTP/1.1 as seen from outside. Its server reads at most 1024 bytes at a time into one buffer; what that means for
// a client is kept here: a line with its end is 1024 bytes at most, an error throws away the read it was found in with every
// whole request of that read, and the connection goes on from the state it was in. Not here: sockets, answers.

/** One whole request. */
export interface Request {
  readonly method: "GET" | "PUT" | "PATCH" | "DELETE";
  /** The absolute path, without scheme and host; empty for a target that is not absolute */
  readonly path: string;
  /** Only there when Content-Length is over 0 */
  readonly body: Buffer | undefined;
}

export type HttpVersion = "HTTP/1.0" | "HTTP/1.1";

/** What the HTTP layer itself refuses; goes out under the key `error`. */
export class HttpError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "HttpError";
  }
}

/** Bytes of the server's buffer, and so of a line with its end */
export const maxLine = 1024;
const methods = ["GET", "PUT", "PATCH", "DELETE"] as const;
const maxU32 = 4_294_967_295;

type Head = {
  readonly method: Request["method"];
  readonly path: string;
  readonly version: HttpVersion;
  length: number;
  expects: boolean;
};

type Phase =
  | { readonly at: "line" }
  | { readonly at: "headers"; readonly head: Head }
  | { readonly at: "body"; readonly head: Head; readonly parts: Buffer[]; missing: number };

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decoded(bytes: Buffer, what: string): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw Object.assign(new HttpError(`${what} is not valid UTF-8.`), { cause });
  }
}

function absolutePath(target: string): string {
  if (target.startsWith("http://")) {
    const slash = target.indexOf("/", "http://".length);
    return slash < 0 ? "" : target.slice(slash);
  }
  return target.startsWith("/") ? target : "";
}

function startLine(line: Buffer): Phase {
  const first = line.indexOf(" ");
  const second = first < 0 ? -1 : line.indexOf(" ", first + 1);
  if (second < 0) throw new HttpError("Invalid request: the request line has no method, URI and version.");
  const verb = line.toString("latin1", 0, first);
  const method = methods.find((one) => one === verb);
  if (method === undefined)
    throw new HttpError("Invalid HTTP Method: unsupported, it can be GET, PUT, PATCH or DELETE.");
  const target = line.subarray(first + 1, second);
  if (target.length === 0) throw new HttpError("Invalid URI: it is empty.");
  const path = absolutePath(decoded(target, "Invalid URI: it"));
  const version = line.toString("latin1", second + 1);
  if (version !== "HTTP/1.1" && version !== "HTTP/1.0")
    throw new HttpError("Invalid HTTP Version: unsupported, it can be HTTP/1.0 or HTTP/1.1.");
  return { at: "headers", head: { method, path, version, length: 0, expects: false } };
}

function checkEncodings(value: string): void {
  if (value === "") throw new HttpError("Invalid request: the header Accept-Encoding is empty.");
  for (const encoding of value.split(",").map((one) => one.trim())) {
    if (encoding === "identity;q=0" || (encoding === "*;q=0" && !value.includes("identity")))
      throw new HttpError(`Invalid header. Key: Accept-Encoding; Value: ${encoding}`);
  }
}

/** Headers that mean nothing here are let pass, whatever is in them. */
function readHeader(head: Head, line: Buffer): void {
  const text = decoded(line, "Invalid header: it");
  const colon = text.indexOf(":");
  if (colon < 0) throw new HttpError(`Invalid header: no colon. Key: ${text}`);
  const value = text.slice(colon + 1).trim();
  switch (text.slice(0, colon).trim().toLowerCase()) {
    case "content-length": {
      const length = /^\+?\d+$/.test(value) ? Number(value) : Number.NaN;
      if (!(length <= maxU32)) throw new HttpError(`Invalid header. Key: Content-Length; Value: ${value}`);
      head.length = length;
      break;
    }
    case "expect":
      if (value === "100-continue") head.expects = true;
      break;
    case "accept-encoding":
      checkEncodings(value);
      break;
    default:
  }
}

/** The requests of one connection. */
export class RequestParser {
  readonly #maxBody: number;
  readonly #onContinue: (version: HttpVersion) => void;
  #pending: Buffer = Buffer.alloc(0);
  #phase: Phase = { at: "line" };

  /** `onContinue` is called when a client asks whether it may send its body. */
  constructor(maxBody: number, onContinue: (version: HttpVersion) => void = () => {}) {
    this.#maxBody = maxBody;
    this.#onContinue = onContinue;
  }

  /** How many bytes the next {@link read} may have: at least 1. */
  get room(): number {
    return maxLine - this.#pending.length;
  }

  /** The requests that these bytes complete. @throws {HttpError} then the bytes are gone, and the next ones may be read */
  read(bytes: Buffer): readonly Request[] {
    const buffer = this.#pending.length === 0 ? bytes : Buffer.concat([this.#pending, bytes]);
    const requests: Request[] = [];
    let at = 0;
    for (;;) {
      const phase = this.#phase;
      if (phase.at === "body") {
        const part = buffer.subarray(at, at + phase.missing);
        phase.parts.push(Buffer.from(part));
        phase.missing -= part.length;
        at += part.length;
        if (phase.missing > 0) {
          this.#pending = Buffer.alloc(0);
          return requests;
        }
        const { method, path } = phase.head;
        requests.push({ method, path, body: Buffer.concat(phase.parts) });
        this.#phase = { at: "line" };
        continue;
      }
      const end = buffer.indexOf("\r\n", at);
      if (end < 0) {
        if (at === 0 && buffer.length === maxLine)
          throw new HttpError(
            phase.at === "line"
              ? `Invalid request: the request line has more than ${maxLine} bytes.`
              : `Invalid header: it has more than ${maxLine} bytes.`,
          );
        this.#pending = Buffer.from(buffer.subarray(at));
        return requests;
      }
      const line = buffer.subarray(at, end);
      if (phase.at === "line") this.#phase = startLine(line);
      else if (line.length > 0) readHeader(phase.head, line);
      else this.#endOfHeaders(phase.head, requests);
      at = end + 2;
    }
  }

  #endOfHeaders(head: Head, requests: Request[]): void {
    const { method, path, version, length, expects } = head;
    if (length === 0) {
      requests.push({ method, path, body: undefined });
      this.#phase = { at: "line" };
      return;
    }
    if (length > this.#maxBody)
      throw new HttpError(
        `The request's payload of ${length} bytes is over the limit of ${this.#maxBody} bytes.`,
      );
    if (expects) this.#onContinue(version);
    this.#phase = { at: "body", head, parts: [], missing: length };
  }
}
