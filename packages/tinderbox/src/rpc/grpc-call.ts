/** One call of a gRPC client on a stream of Node's HTTP/2, from its headers to its trailers. */
import {
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from "node:http2";
import { type DescMethod, fromBinary } from "@bufbuild/protobuf";
import { type ErrorCode, errorTable, TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { span } from "../base/trace.ts";
import { Encoded, encode } from "./encoded.ts";
import {
  codeTrailer,
  framed,
  maxMessageBytes,
  messagePrefix,
  parseTimeout,
  percentEncode,
  prefixBytes,
} from "./grpc-wire.ts";

/** What a handler is told of its call; `signal` aborts when the client goes away or its deadline passes. */
export type CallContext = { readonly signal: AbortSignal };

/** Told of each call's end; `code` is "OK" or an error's. */
export type CallObserver = (method: string, code: ErrorCode | "OK", seconds: number) => void;

/** HTTP/2 peers bound their header lists; a longer text would lose the whole status. */
const maxStatusChars = 2000;
/** Answers up to this size are copied behind their prefix: one write is less than two. */
const copiedBytes = 4096;
/** A timer waits no longer; so long a deadline is none. */
const maxTimerMs = 2 ** 31 - 1;
const answerHeaders: OutgoingHttpHeaders = { ":status": 200, "content-type": "application/grpc+proto" };
const ok: OutgoingHttpHeaders = { "grpc-status": "0" };

/** Any thrown value as the status that the client gets. */
export function statusOf(thrown: unknown): OutgoingHttpHeaders {
  const error = TinderboxError.from(thrown);
  const text = error.hint === undefined ? error.message : `${error.message} (${error.hint})`;
  return {
    "grpc-status": `${errorTable[error.code].grpc}`,
    "grpc-message": percentEncode(text.slice(0, maxStatusChars).toWellFormed()),
    [codeTrailer]: error.code,
  };
}

type Init = Record<string, unknown>;
/** Its messages are those of the method that it is given with. */
export type AnyHandler = (request: object, context: CallContext) => Promise<object> | AsyncIterable<object>;
export type Method = {
  readonly description: DescMethod;
  readonly handler: AnyHandler;
  readonly logger: Logger;
  readonly observe: CallObserver;
};

/** Whether the client has taken its call back; "close" comes later. */
const isGone = (stream: ServerHttp2Stream): boolean => stream.destroyed || stream.closed;

/** Ends what has been answered, with trailers. */
function endWithTrailers(stream: ServerHttp2Stream, trailers: OutgoingHttpHeaders): void {
  stream.on("wantTrailers", () => {
    if (!isGone(stream)) stream.sendTrailers(trailers);
  });
  stream.end();
}

/** Ends a call that has no answer, or no more. */
export function endWithStatus(stream: ServerHttp2Stream, status: OutgoingHttpHeaders): void {
  if (isGone(stream)) return;
  if (stream.headersSent) endWithTrailers(stream, status);
  else stream.respond({ ...answerHeaders, ...status }, { endStream: true });
}

/** Serves itself: what it is made with is all that it needs. */
export class Call implements CallContext {
  readonly #stream: ServerHttp2Stream;
  readonly #method: Method;
  readonly #startedMs = performance.now();
  #abort: AbortController | undefined;
  #deadline: NodeJS.Timeout | undefined;
  /** The client has gone, or has its answer: nothing more can be said. */
  #isOver = false;
  #chunks: Buffer[] = [];
  #received = 0;

  constructor(stream: ServerHttp2Stream, method: Method, headers: IncomingHttpHeaders) {
    this.#stream = stream;
    this.#method = method;
    // Behind an error comes a "close".
    stream.on("error", () => {});
    stream.on("close", () => this.#giveUp());
    stream.on("data", (chunk: Buffer) => this.#receive(chunk));
    stream.on("end", () => void this.#serve());
    const given = headers["grpc-timeout"];
    if (given !== undefined) this.#startDeadline(`${given}`);
  }

  /** Made when somebody asks for it: most calls are over before they could be given up. */
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.#isOver) this.#abort.abort();
    return this.#abort.signal;
  }

  #startDeadline(given: string): void {
    const ms = parseTimeout(given);
    if (ms === undefined) {
      const allowed = "1 to 8 digits and one of H, M, S, m, u and n";
      this.#refuse("INVALID", `grpc-timeout: ${JSON.stringify(given.slice(0, 40))}: ${allowed}`);
      return;
    }
    if (ms > maxTimerMs) return;
    this.#deadline = setTimeout(() => {
      if (this.#isOver) return;
      endWithStatus(this.#stream, statusOf(new TinderboxError("TIMEOUT", "the call's deadline has passed")));
      this.#giveUp();
    }, ms);
  }

  /** What the handler does is for nobody now. */
  #giveUp(): void {
    clearTimeout(this.#deadline);
    if (this.#isOver) return;
    this.#isOver = true;
    this.#abort?.abort();
  }

  #receive(chunk: Buffer): void {
    this.#received += chunk.length;
    if (this.#isOver) return;
    this.#chunks.push(chunk);
    if (this.#received <= maxMessageBytes + prefixBytes) return;
    this.#refuse("LIMIT", `a request is longer than the ${maxMessageBytes} bytes that are taken`);
  }

  #request(): object {
    const [first = Buffer.alloc(0)] = this.#chunks;
    const bytes = this.#chunks.length === 1 ? first : Buffer.concat(this.#chunks);
    this.#chunks = [];
    if (bytes.length < prefixBytes || bytes.length !== prefixBytes + bytes.readUInt32BE(1))
      throw new TinderboxError("INVALID", "a request has to be one whole message");
    if (bytes[0] !== 0)
      throw new TinderboxError("UNSUPPORTED", "a request is compressed; the encoding has to be identity");
    const { input } = this.#method.description;
    try {
      return fromBinary(input, bytes.subarray(prefixBytes));
    } catch (cause) {
      throw new TinderboxError("INVALID", `a request is no ${input.name}`, { cause });
    }
  }

  async #serve(): Promise<void> {
    if (this.#isOver) return;
    const { description, handler } = this.#method;
    try {
      const request = this.#request();
      if (description.methodKind === "server_streaming")
        await this.#sendEach(handler(request, this) as AsyncIterable<object>);
      else this.#answer(await span("rpc", description.name, () => handler(request, this) as Promise<object>));
    } catch (thrown) {
      this.#fail(thrown);
    }
  }

  #encode(message: object): Uint8Array {
    if (message instanceof Encoded) return message.bytes;
    return encode(this.#method.description.output, message as Init);
  }

  #respond(): void {
    if (!isGone(this.#stream)) this.#stream.respond(answerHeaders, { waitForTrailers: true });
  }

  /** Whether the client takes more at once. */
  #write(bytes: Uint8Array): boolean {
    if (bytes.length <= copiedBytes) return this.#stream.write(framed(bytes));
    this.#stream.cork();
    this.#stream.write(messagePrefix(bytes.length));
    const isTaken = this.#stream.write(bytes);
    this.#stream.uncork();
    return isTaken;
  }

  #answer(message: object): void {
    const bytes = this.#encode(message);
    this.#count("OK");
    if (this.#isOver) return;
    this.#isOver = true;
    this.#respond();
    this.#write(bytes);
    endWithTrailers(this.#stream, ok);
  }

  async #sendEach(items: AsyncIterable<object>): Promise<void> {
    const { signal } = this;
    let wake = (): void => {};
    this.#stream.on("drain", () => wake());
    signal.addEventListener("abort", () => wake());
    try {
      for await (const item of items) {
        if (signal.aborted) break;
        if (!this.#stream.headersSent) this.#respond();
        if (!this.#write(this.#encode(item))) await new Promise<void>((resolve) => (wake = resolve));
        if (signal.aborted) break;
      }
    } catch (thrown) {
      // Calls whose client has gone end in errors; that is no failure.
      if (!signal.aborted) throw thrown;
    }
    this.#count("OK");
    if (this.#isOver) return;
    this.#isOver = true;
    if (!this.#stream.headersSent) this.#respond();
    endWithTrailers(this.#stream, ok);
  }

  #count(code: ErrorCode | "OK"): void {
    clearTimeout(this.#deadline);
    this.#method.observe(this.#method.description.name, code, (performance.now() - this.#startedMs) / 1000);
  }

  #fail(thrown: unknown): void {
    const { description, logger } = this.#method;
    const error = TinderboxError.from(thrown);
    this.#count(error.code);
    const own = thrown instanceof TinderboxError;
    logger[own && error.code !== "INTERNAL" ? "info" : "error"]("call failed", {
      method: description.name,
      code: error.code,
      error: error.message,
      ...(own || !(thrown instanceof Error) ? {} : { stack: thrown.stack }),
    });
    if (this.#isOver) return;
    this.#isOver = true;
    endWithStatus(this.#stream, statusOf(error));
  }

  /** Ends the call while its request is still coming. */
  #refuse(code: ErrorCode, message: string): void {
    this.#chunks = [];
    this.#fail(new TinderboxError(code, message));
    this.#stream.close(constants.NGHTTP2_NO_ERROR);
  }
}
