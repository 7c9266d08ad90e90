/**
 * A gRPC server on Node's own HTTP/2: services are described by protobuf-es, handlers are plain async functions. It knows what CRI has,
 * unary calls and server streams without compression: decisions/0011 says what that buys. A code crosses the wire by base/errors.ts'
 * table and the `tinderbox-code` trailer.
 */
import { once } from "node:events";
import {
  constants,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { DescMethod, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Encoded } from "./encoded.ts";
import {
  type AnyHandler,
  Call,
  type CallContext,
  type CallObserver,
  endWithStatus,
  type Method,
  statusOf,
} from "./grpc-call.ts";

type HandlerOf<M extends DescMethod> = M["methodKind"] extends "unary"
  ? (
      request: MessageShape<M["input"]>,
      context: CallContext,
    ) => Promise<MessageInitShape<M["output"]> | Encoded>
  : M["methodKind"] extends "server_streaming"
    ? (
        request: MessageShape<M["input"]>,
        context: CallContext,
      ) => AsyncIterable<MessageInitShape<M["output"]>>
    : never;

/** One handler a method; a method left out answers UNIMPLEMENTED. */
export type ServiceHandlers<S extends DescService> = {
  readonly [K in keyof S["method"]]?: HandlerOf<S["method"][K]>;
};

/** Calls at once of one connection; clients hold back what is more. */
const maxConcurrentStreams = 1000;
/** MB that a connection may hold: many answers of many MB, to a client that reads them slowly. */
const maxSessionMemory = 1024;

export class GrpcServer {
  readonly #methods = new Map<string, Method>();
  readonly #sessions = new Set<ServerHttp2Session>();
  readonly #server: Http2Server = createServer({ settings: { maxConcurrentStreams }, maxSessionMemory });

  constructor() {
    this.#server.on("session", (session) => {
      this.#sessions.add(session);
      session.on("close", () => this.#sessions.delete(session));
    });
    // A client that breaks the protocol loses its connection, which is all there is to do.
    this.#server.on("sessionError", () => {});
    this.#server.on("stream", (stream, headers) => this.#begin(stream, headers));
  }

  #begin(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    const method = this.#methods.get(`${headers[":path"]}`);
    const isGrpc = /^application\/grpc(\+proto)?($|;)/.test(headers["content-type"] ?? "");
    if (method !== undefined && isGrpc && headers[":method"] === "POST") {
      new Call(stream, method, headers);
      return;
    }
    stream.on("error", () => {});
    if (headers[":method"] !== "POST") stream.respond({ ":status": 405, allow: "POST" }, { endStream: true });
    else if (!isGrpc) stream.respond({ ":status": 415 }, { endStream: true });
    else {
      const path = JSON.stringify(headers[":path"]?.slice(0, 200));
      endWithStatus(stream, statusOf(new TinderboxError("UNSUPPORTED", `no such call: ${path}`)));
    }
    stream.close(constants.NGHTTP2_NO_ERROR);
  }

  /** Adds a service; before the server listens or behind that. */
  add<S extends DescService>(
    service: S,
    handlers: ServiceHandlers<S>,
    logger: Logger,
    observe: CallObserver = () => {},
  ): void {
    for (const description of service.methods) {
      const missing: AnyHandler = () => {
        throw new TinderboxError(
          "UNSUPPORTED",
          `${service.typeName}.${description.name}: tinderboxd does not offer this call`,
        );
      };
      // Keyed by localName in both types; the mapped type ties each handler's messages to its method.
      const given = (handlers as Readonly<Record<string, unknown>>)[description.localName];
      const handler = (given ?? missing) as AnyHandler;
      const path = `/${service.typeName}/${description.name}`;
      this.#methods.set(path, { description, handler, logger, observe });
    }
  }

  /** Binds to a unix socket's path. @throws UNAVAILABLE when that is not possible */
  async listen(socketPath: string): Promise<void> {
    try {
      this.#server.listen(socketPath);
      await once(this.#server, "listening");
    } catch (cause) {
      const { message } = TinderboxError.from(cause);
      throw new TinderboxError("UNAVAILABLE", `cannot listen on ${socketPath}: ${message}`, { cause });
    }
  }

  /** Takes no more calls, lets those that run finish for `graceMs`, then cuts them. */
  async close(graceMs: number): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, "close");
    this.#server.close();
    for (const session of this.#sessions) session.close();
    const timer = setTimeout(() => {
      for (const session of this.#sessions) session.destroy();
    }, graceMs);
    await closed;
    clearTimeout(timer);
  }
}
