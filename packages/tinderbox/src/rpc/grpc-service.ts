/**
 * Binds protobuf-es service descriptions to @grpc/grpc-js: servers as plain async functions, clients as typed calls.
 * The only file that knows grpc-js; error codes cross the wire by base/errors.ts' table and a `tinderbox-code` trailer.
 */
import type { DescMethod, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  Client,
  credentials,
  Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { type ErrorCode, errorTable, TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { span } from "../base/trace.ts";
import { Encoded } from "./encoded.ts";

/** What a handler is told of its call; `signal` aborts when the client goes away or its deadline passes. */
export type CallContext = { readonly signal: AbortSignal; readonly metadata: Metadata };

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

/** Told of each call's end; `code` is "OK" or an error's. */
export type CallObserver = (method: string, code: ErrorCode | "OK", seconds: number) => void;

/** One handler a method; a method left out answers UNIMPLEMENTED. */
export type ServiceHandlers<S extends DescService> = {
  readonly [K in keyof S["method"]]?: HandlerOf<S["method"][K]>;
};

/** The kubelet's own limit for one message. */
export const maxMessageBytes: number = 16 << 20;

/** HTTP/2 peers bound their header lists; a longer text would lose the whole status. */
const maxStatusChars = 2000;
const codeTrailer = "tinderbox-code";

/** Messages in the message limit of the kubelet, in both directions for requests; responses are the client's to limit. */
export function createGrpcServer(): Server {
  return new Server({
    "grpc.max_receive_message_length": maxMessageBytes,
    "grpc.max_send_message_length": -1,
    // Its counts of every call, which nobody reads here.
    "grpc.enable_channelz": 0,
  });
}

/** Any thrown value as the status that the client gets. */
export function statusOf(thrown: unknown): { code: number; details: string; metadata: Metadata } {
  const error = TinderboxError.from(thrown);
  const text = error.hint === undefined ? error.message : `${error.message} (${error.hint})`;
  const metadata = new Metadata();
  metadata.set(codeTrailer, error.code);
  return {
    code: errorTable[error.code].grpc,
    details: text.slice(0, maxStatusChars).toWellFormed(),
    metadata,
  };
}

function definitionOf(method: DescMethod): MethodDefinition<object, object> {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
    responseStream: method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
    requestSerialize: (message) => Buffer.from(toBinary(method.input, create(method.input, message as Init))),
    requestDeserialize: (bytes) => fromBinary(method.input, bytes),
    responseSerialize: (message) =>
      message instanceof Encoded
        ? message.bytes
        : Buffer.from(toBinary(method.output, create(method.output, message as Init))),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
  };
}

type Init = Record<string, unknown>;
/** How a call ended: counted, and a failure logged. */
type CallEnd = { well(): void; badly(thrown: unknown): void };
type AnyHandler = (request: object, context: CallContext) => Promise<object> | AsyncIterable<object>;

async function serveUnary(
  handler: AnyHandler,
  call: ServerUnaryCall<object, object>,
  reply: sendUnaryData<object>,
  ended: CallEnd,
): Promise<void> {
  const abort = new AbortController();
  let isAnswered = false;
  // Told of every call's end, too; an abort then would only cost the making of an error.
  call.once("cancelled", () => {
    if (!isAnswered) abort.abort();
  });
  try {
    const answer = await (handler(call.request, {
      signal: abort.signal,
      metadata: call.metadata,
    }) as Promise<object>);
    isAnswered = true;
    ended.well();
    reply(null, answer);
  } catch (thrown) {
    isAnswered = true;
    ended.badly(thrown);
    reply(statusOf(thrown));
  }
}

async function serveStream(
  handler: AnyHandler,
  call: ServerWritableStream<object, object>,
  ended: CallEnd,
): Promise<void> {
  const abort = new AbortController();
  const drained = { wake: (): void => {} };
  call.once("cancelled", () => {
    abort.abort();
    drained.wake();
  });
  call.on("drain", () => drained.wake());
  try {
    const items = handler(call.request, {
      signal: abort.signal,
      metadata: call.metadata,
    }) as AsyncIterable<object>;
    for await (const item of items) {
      if (abort.signal.aborted) return ended.well();
      if (!call.write(item)) await new Promise<void>((resolve) => (drained.wake = resolve));
      if (abort.signal.aborted) return ended.well();
    }
    ended.well();
    call.end();
  } catch (thrown) {
    if (abort.signal.aborted) return ended.well();
    ended.badly(thrown);
    call.emit("error", statusOf(thrown));
  }
}

/** Adds a service to a server. */
export function addGrpcService<S extends DescService>(
  server: Server,
  service: S,
  handlers: ServiceHandlers<S>,
  logger: Logger,
  observe: CallObserver = () => {},
): void {
  const definitions: Record<string, MethodDefinition<object, object>> = {};
  const implementations: UntypedServiceImplementation = {};
  for (const method of service.methods) {
    const missing: AnyHandler = () => {
      throw new TinderboxError(
        "UNSUPPORTED",
        `${service.typeName}.${method.name}: tinderboxd does not offer this call`,
      );
    };
    // Keyed by localName in both types; the mapped type ties each handler's messages to its method.
    const given = (handlers as Readonly<Record<string, unknown>>)[method.localName];
    const handler = (given ?? missing) as AnyHandler;
    const begin = (): CallEnd => {
      const started = performance.now();
      const seconds = (): number => (performance.now() - started) / 1000;
      return {
        well: () => observe(method.name, "OK", seconds()),
        badly: (thrown) => {
          const error = TinderboxError.from(thrown);
          observe(method.name, error.code, seconds());
          const own = thrown instanceof TinderboxError;
          logger[own && error.code !== "INTERNAL" ? "info" : "error"]("call failed", {
            method: method.name,
            code: error.code,
            error: error.message,
            ...(own || !(thrown instanceof Error) ? {} : { stack: thrown.stack }),
          });
        },
      };
    };
    definitions[method.localName] = definitionOf(method);
    implementations[method.localName] =
      method.methodKind === "server_streaming"
        ? (call: ServerWritableStream<object, object>) => void serveStream(handler, call, begin())
        : (call: ServerUnaryCall<object, object>, reply: sendUnaryData<object>) =>
            void serveUnary(
              async (request, context) =>
                span("rpc", method.name, () => handler(request, context) as Promise<object>),
              call,
              reply,
              begin(),
            );
  }
  server.addService(definitions, implementations);
}

/** Binds to a unix socket path and begins to serve. */
export async function listenGrpc(server: Server, socketPath: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix://${socketPath}`, ServerCredentials.createInsecure(), (cause) => {
      if (cause === null) return resolve();
      reject(
        new TinderboxError("UNAVAILABLE", `cannot listen on ${socketPath}: ${cause.message}`, { cause }),
      );
    });
  });
}

/** Lets calls that run finish for `graceMs`, then cuts them. */
export async function closeGrpc(server: Server, graceMs: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => server.forceShutdown(), graceMs);
    server.tryShutdown(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}

export type CallOptions = { readonly signal?: AbortSignal; readonly deadlineMs?: number };

type Named<S extends DescService, Kind extends string> = {
  [K in keyof S["method"]]: S["method"][K]["methodKind"] extends Kind ? K : never;
}[keyof S["method"]];

/** A client of one service. */
export type GrpcClient<S extends DescService> = {
  /** @throws TinderboxError with the code that the server gave, UNAVAILABLE when there is no server */
  callUnary<K extends Named<S, "unary">>(
    method: K,
    request: MessageInitShape<S["method"][K]["input"]>,
    options?: CallOptions,
  ): Promise<MessageShape<S["method"][K]["output"]>>;
  /** Ends the call when the loop is left. */
  callStream<K extends Named<S, "server_streaming">>(
    method: K,
    request: MessageInitShape<S["method"][K]["input"]>,
    options?: CallOptions,
  ): AsyncIterable<MessageShape<S["method"][K]["output"]>>;
  close(): void;
};

const codeByStatus: Readonly<Record<number, ErrorCode>> = {
  1: "ABORTED",
  3: "INVALID",
  4: "TIMEOUT",
  5: "NOT_FOUND",
  6: "EXISTS",
  8: "LIMIT",
  9: "WRONG_STATE",
  10: "ABORTED",
  12: "UNSUPPORTED",
  14: "UNAVAILABLE",
};

function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === "string" && Object.hasOwn(errorTable, value);
}

function clientError(cause: ServiceError): TinderboxError {
  const sent = cause.metadata?.get(codeTrailer)[0];
  const code = isErrorCode(sent) ? sent : (codeByStatus[cause.code] ?? "INTERNAL");
  return new TinderboxError(code, cause.details || cause.message, { cause });
}

function callSettings(options: CallOptions): { deadline?: number } {
  return options.deadlineMs === undefined ? {} : { deadline: Date.now() + options.deadlineMs };
}

/** A typed client of `service` at a gRPC address (`unix:///run/tinderbox/tinderbox.sock`). Connects with the first call. */
export function createGrpcClient<S extends DescService>(service: S, address: string): GrpcClient<S> {
  const client = new Client(address, credentials.createInsecure(), {
    "grpc.max_receive_message_length": maxMessageBytes,
    "grpc.default_authority": "localhost",
  });
  const find = (name: PropertyKey): MethodDefinition<object, object> => {
    const method = service.methods.find((one) => one.localName === name);
    if (method === undefined)
      throw new TinderboxError("INTERNAL", `${service.typeName} has no method ${String(name)}`);
    return definitionOf(method);
  };
  return {
    callUnary(name, request, options = {}) {
      const method = find(name);
      return new Promise((resolve, reject) => {
        options.signal?.throwIfAborted();
        const call = client.makeUnaryRequest(
          method.path,
          method.requestSerialize,
          method.responseDeserialize,
          request as object,
          new Metadata(),
          callSettings(options),
          (cause, response) => {
            options.signal?.removeEventListener("abort", cancel);
            if (cause !== null) return reject(clientError(cause));
            // responseDeserialize made it from this very method's output description
            resolve(response as never);
          },
        );
        const cancel = (): void => call.cancel();
        options.signal?.addEventListener("abort", cancel, { once: true });
      });
    },
    async *callStream(name, request, options = {}) {
      const method = find(name);
      options.signal?.throwIfAborted();
      const call = client.makeServerStreamRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request as object,
        new Metadata(),
        callSettings(options),
      );
      const cancel = (): void => call.cancel();
      options.signal?.addEventListener("abort", cancel, { once: true });
      try {
        for await (const item of call) yield item as never;
      } catch (cause) {
        throw clientError(cause as ServiceError);
      } finally {
        options.signal?.removeEventListener("abort", cancel);
        call.cancel();
      }
    },
    close: () => client.close(),
  };
}
