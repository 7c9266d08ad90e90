/** Typed clients of services that protobuf-es describes, on @grpc/grpc-js: the only file that knows it. */
import type {
  DescMessage,
  DescMethod,
  DescService,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Client, credentials, Metadata, type MethodDefinition, type ServiceError } from "@grpc/grpc-js";
import { type ErrorCode, errorTable, TinderboxError } from "../base/errors.ts";
import { codeTrailer, maxMessageBytes } from "./grpc-wire.ts";

type Init = Record<string, unknown>;

function definitionOf(method: DescMethod): MethodDefinition<object, object> {
  const encode =
    (schema: DescMessage) =>
    (message: object): Buffer =>
      Buffer.from(toBinary(schema, create(schema, message as Init)));
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: false,
    responseStream: method.methodKind === "server_streaming",
    requestSerialize: encode(method.input),
    requestDeserialize: (bytes) => fromBinary(method.input, bytes),
    responseSerialize: encode(method.output),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
  };
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
