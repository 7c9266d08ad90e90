/**
 * A CRI client that leaves answers as bytes, on HTTP/2 alone: to read an answer is the client's work, and Node's gRPC library takes more
 * processor time for a call than the daemon for its answer. Both would be counted for both daemons.
 */
import { type ClientHttp2Session, connect, type IncomingHttpHeaders } from "node:http2";
import { createConnection } from "node:net";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { encode } from "../packages/tinderbox/src/rpc/encoded.ts";
import { RuntimeService } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { framed } from "../packages/tinderbox/src/rpc/grpc-wire.ts";

type Methods = (typeof RuntimeService)["method"];

export class RawCri implements Disposable {
  readonly #session: ClientHttp2Session;

  constructor(socket: string) {
    this.#session = connect("http://localhost", {
      createConnection: () => createConnection(socket),
      settings: { initialWindowSize: 16 << 20 },
    });
    this.#session.on("connect", () => this.#session.setLocalWindowSize(16 << 20));
  }

  /** The answer with gRPC's prefix. */
  ask<K extends keyof Methods>(
    method: K,
    request: MessageInitShape<Methods[K]["input"]>,
  ): Promise<readonly Buffer[]> {
    const { input, name } = RuntimeService.method[method];
    const bytes = encode(input, request as MessageInitShape<typeof input>);
    const { promise, resolve, reject } = Promise.withResolvers<readonly Buffer[]>();
    const stream = this.#session.request({
      ":method": "POST",
      ":path": `/${RuntimeService.typeName}/${name}`,
      "content-type": "application/grpc",
      te: "trailers",
    });
    const chunks: Buffer[] = [];
    let status: string | undefined;
    const see = (headers: IncomingHttpHeaders): void => {
      status ??= headers["grpc-status"] as string | undefined;
    };
    stream.on("response", see);
    stream.on("trailers", see);
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("error", reject);
    stream.on("close", () =>
      status === "0" ? resolve(chunks) : reject(new Error(`${name}: gRPC status ${status ?? "none"}`)),
    );
    stream.end(framed(bytes));
    return promise;
  }

  [Symbol.dispose](): void {
    this.#session.close();
  }
}
