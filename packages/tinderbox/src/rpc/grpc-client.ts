/** Typed clients of services that protobuf-es describes, on @grpc/grpc-js: the only file that knows it. */
import type { DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { fromBinary } from "@bufbuild/protobuf";
import { Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { type ErrorCode, errorTable, TinderboxError } from "../base/errors.ts";
import { encode } from "./encoded.ts";
import { codeTrailer, maxMessageBytes } from "./grpc-wire.ts";

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
  /** What grpc-js is told of a call, whatever its kind. */
  const call = (name: PropertyKey, request: object, options: CallOptions) => {
    options.signal?.throwIfAborted();
    const method = service.methods.find((one) => one.localName === name);
    if (method === undefined)
      throw new TinderboxError("INTERNAL", `${service.typeName} has no method ${String(name)}`);
    return [
      `/${service.typeName}/${method.name}`,
      (message: object) => Buffer.from(encode(method.input, message as Record<string, unknown>)),
      (bytes: Buffer): object => fromBinary(method.output, bytes),
      request,
      new Metadata(),
      callSettings(options),
    ] as const;
  };
  return {
    callUnary(name, request, options = {}) {
      return new Promise((resolve, reject) => {
        const running = client.makeUnaryRequest(
          ...call(name, request as object, options),
          (cause, response) => {
            options.signal?.removeEventListener("abort", cancel);
            if (cause !== null) return reject(clientError(cause));
            // It was read by this very method's output description.
            resolve(response as never);
          },
        );
        const cancel = (): void => running.cancel();
        options.signal?.addEventListener("abort", cancel, { once: true });
      });
    },
    async *callStream(name, request, options = {}) {
      const running = client.makeServerStreamRequest(...call(name, request as object, options));
      const cancel = (): void => running.cancel();
      options.signal?.addEventListener("abort", cancel, { once: true });
      try {
        for await (const item of running) yield item as never;
      } catch (cause) {
        throw clientError(cause as ServiceError);
      } finally {
        options.signal?.removeEventListener("abort", cancel);
        running.cancel();
      }
    },
    close: () => client.close(),
  };
}
