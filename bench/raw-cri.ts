/**
 * A CRI client that leaves answers as bytes: to read one is the client's work, which would be counted for both daemons, and more for the
 * one whose answers say more.
 */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import { RuntimeService } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";

type Methods = (typeof RuntimeService)["method"];

export class RawCri implements Disposable {
  readonly #client: Client;

  constructor(socket: string) {
    this.#client = new Client(`unix://${socket}`, credentials.createInsecure(), {
      "grpc.max_receive_message_length": -1,
      "grpc.default_authority": "localhost",
    });
  }

  ask<K extends keyof Methods>(method: K, request: MessageInitShape<Methods[K]["input"]>): Promise<Buffer> {
    const { input, name } = RuntimeService.method[method];
    const bytes = Buffer.from(toBinary(input, create(input, request as MessageInitShape<typeof input>)));
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        `/${RuntimeService.typeName}/${name}`,
        () => bytes,
        (answer: Buffer) => answer,
        {},
        (cause, answer) =>
          answer === undefined ? reject(cause ?? new Error(`${name}: no answer`)) : resolve(answer),
      );
    });
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }
}
