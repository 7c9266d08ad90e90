// What the guest is answered at the metadata service's address: HTTP as Firecracker's own little server speaks it. The bytes of a
// connection come from the network device and go back to it.
import type { MmdsConfig } from "../schema/bodies.ts";
import { isJsonObject, type JsonValue, writeJson } from "../schema/json-value.ts";
import { MetadataTokens, maxTokenSeconds } from "./metadata-token.ts";

const maxRequestBytes = 8192;
const tokenPath = "/latest/api/token";
const tokenHeaders = ["x-metadata-token", "x-aws-ec2-metadata-token"];
const ttlHeaders = ["x-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token-ttl-seconds"];

type Reply = {
  readonly status: number;
  readonly body: string;
  readonly type?: "application/json";
  readonly headers?: string;
};

type GuestRequest = {
  readonly method: string;
  readonly path: string;
  readonly version: string;
  /** By name in lower case, each with the name as it was written */
  readonly headers: ReadonlyMap<string, { readonly name: string; readonly value: string }>;
};

const plain = (status: number, body: string, headers?: string): Reply =>
  headers === undefined ? { status, body } : { status, body, headers };

function headerOf(
  request: GuestRequest,
  names: readonly string[],
): { name: string; value: string } | undefined {
  return names.map((name) => request.headers.get(name)).find((found) => found !== undefined);
}

/** `path` (slashes in a row are one) as a JSON pointer into `value`. */
function lookUp(value: JsonValue, path: string): JsonValue | undefined {
  const pointer = path.endsWith("/") ? path.slice(0, -1) : path;
  let at: JsonValue | undefined = value;
  for (const part of pointer.split("/").slice(1)) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
    if (at === undefined || at === null) return undefined;
    if (Array.isArray(at)) at = /^(0|[1-9]\d*)$/.test(key) ? at[Number(key)] : undefined;
    else at = typeof at === "object" && isJsonObject(at) ? at.get(key) : undefined;
  }
  return at;
}

/** The listing of EC2's metadata service; undefined for what has none. */
function asListing(value: JsonValue): string | undefined {
  if (typeof value === "string") return value;
  if (!isJsonObject(value)) return undefined;
  const keys = [...value.keys()].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  return keys.map((key) => (isJsonObject(value.get(key) ?? null) ? `${key}/` : key)).join("\n");
}

/** undefined when it is no request */
function parseRequest(head: string): GuestRequest | undefined {
  const [first = "", ...lines] = head.split("\r\n");
  const parts = first.split(" ");
  const [method = "", target = "", version = ""] = parts;
  if (parts.length !== 3 || !/^HTTP\/1\.[01]$/.test(version)) return undefined;
  const headers = new Map<string, { name: string; value: string }>();
  for (const line of lines) {
    const colon = line.indexOf(":");
    if (colon < 1) return undefined;
    const name = line.slice(0, colon).trim();
    headers.set(name.toLowerCase(), { name, value: line.slice(colon + 1).trim() });
  }
  const path = target.startsWith("http://") ? target.replace(/^http:\/\/[^/]*/, "") : target;
  return { method, path, version, headers };
}

function encode({ status, body, type, headers = "" }: Reply, version: string): Buffer {
  const payload = Buffer.from(body);
  return Buffer.concat([
    Buffer.from(
      `${version} ${status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n${headers}` +
        `Content-Type: ${type ?? "text/plain"}\r\nContent-Length: ${payload.length}\r\n\r\n`,
    ),
    payload,
  ]);
}

/** An answer, and whether the connection ends with it. */
export type GuestAnswer = { readonly bytes: Buffer; readonly isLast: boolean };

/** The service of one machine. */
export class MetadataService {
  readonly #config: MmdsConfig;
  readonly #value: () => JsonValue;
  readonly #count: (name: string) => void;
  readonly #tokens = new MetadataTokens();
  /** What has come of a request, by connection */
  readonly #partial = new Map<string, Buffer>();

  /** `value` is the store's; `count` adds one to a counter of the group `mmds`. */
  constructor(config: MmdsConfig, value: () => JsonValue, count: (name: string) => void) {
    this.#config = config;
    this.#value = value;
    this.#count = count;
  }

  /** Takes bytes of a connection. @returns the answers to the requests that are whole now */
  receive(connection: string, bytes: Buffer): GuestAnswer {
    let rest: Buffer = Buffer.concat([this.#partial.get(connection) ?? Buffer.alloc(0), bytes]);
    const answers: Buffer[] = [];
    for (;;) {
      const next = this.#takeRequest(rest);
      if (next === undefined) break;
      answers.push(next.answer);
      if (next.isLast) {
        this.#partial.delete(connection);
        return { bytes: Buffer.concat(answers), isLast: true };
      }
      rest = next.rest;
    }
    this.#partial.set(connection, rest);
    return { bytes: Buffer.concat(answers), isLast: false };
  }

  /** Answers the first request in `bytes`; undefined when it is not whole. */
  #takeRequest(bytes: Buffer): { answer: Buffer; isLast: boolean; rest: Buffer } | undefined {
    const end = bytes.indexOf("\r\n\r\n");
    if (end < 0 && bytes.length <= maxRequestBytes) return undefined;
    const request = end < 0 ? undefined : parseRequest(bytes.toString("latin1", 0, end));
    if (request === undefined) {
      this.#count("rx_accepted_err");
      return { answer: encode(plain(400, "Invalid request."), "HTTP/1.1"), isLast: true, rest: bytes };
    }
    const length = Number(request.headers.get("content-length")?.value ?? 0);
    const size = end + 4 + length;
    if (!Number.isInteger(length) || length < 0 || size > maxRequestBytes) {
      const answer = encode(plain(400, "Invalid Content-Length."), request.version);
      return { answer, isLast: true, rest: bytes };
    }
    if (bytes.length < size) return undefined;
    this.#count("rx_accepted");
    this.#count("tx_count");
    const isLast = request.headers.get("connection")?.value.toLowerCase() === "close";
    return { answer: encode(this.#answer(request), request.version), isLast, rest: bytes.subarray(size) };
  }

  /** The connection is over. */
  forget(connection: string): void {
    this.#partial.delete(connection);
  }

  #answer(request: GuestRequest): Reply {
    if (request.path === "") return plain(400, "Invalid URI.");
    if (request.method === "PUT") return this.#putToken(request);
    if (request.method !== "GET") return plain(405, "Not allowed HTTP method.", "Allow: GET, PUT\r\n");
    const token = headerOf(request, tokenHeaders)?.value;
    const isValid = token !== undefined && this.#tokens.isValid(token);
    if (token === undefined) this.#count("rx_no_token");
    else if (!isValid) this.#count("rx_invalid_token");
    if (this.#config.version === "V2" && !isValid) {
      if (token !== undefined) return plain(401, "MMDS token not valid.");
      return plain(
        401,
        "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to specify the session token.",
      );
    }
    return this.#get(request);
  }

  #get({ path, headers }: GuestRequest): Reply {
    const found = lookUp(this.#value(), path.replace(/\/+/g, "/"));
    if (found === undefined) return plain(404, `Resource not found: ${path}.`);
    const accept = headers.get("accept")?.value === "application/json" ? "application/json" : undefined;
    // EC2's own service lists, whatever is accepted.
    const body = accept === undefined || this.#config.imds_compat ? asListing(found) : writeJson(found);
    if (body === undefined) return plain(501, "Cannot retrieve value. The value has an unsupported type.");
    return accept === undefined ? plain(200, body) : { status: 200, body, type: accept };
  }

  #putToken(request: GuestRequest): Reply {
    const forwarded = request.headers.get("x-forwarded-for");
    if (forwarded !== undefined)
      return plain(400, `Invalid header. Reason: Unsupported header name. Key: ${forwarded.name}`);
    if (request.path.replace(/\/+/g, "/") !== tokenPath)
      return plain(404, `Resource not found: ${request.path}.`);
    const ttl = headerOf(request, ttlHeaders);
    if (ttl === undefined) {
      return plain(
        400,
        "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or `X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.",
      );
    }
    const seconds = Number(ttl.value);
    if (!/^\+?\d+$/.test(ttl.value) || seconds > 0xffff_ffff)
      return plain(400, `Invalid header. Reason: Invalid value. Key:${ttl.name}; Value:${ttl.value}`);
    if (seconds < 1 || seconds > maxTokenSeconds) {
      return plain(
        400,
        `Invalid time to live value provided for token: ${seconds}. Please provide a value between 1 and ${maxTokenSeconds}.`,
      );
    }
    return plain(200, this.#tokens.issue(seconds), `${ttl.name}: ${seconds}\r\n`);
  }
}
