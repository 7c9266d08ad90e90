import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, constants, type IncomingHttpHeaders, type OutgoingHttpHeaders } from "node:http2";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { after, before, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { TinderboxError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import { RuntimeService } from "./gen/runtime/v1/api_pb.ts";
import { createGrpcClient, type GrpcClient } from "./grpc-client.ts";
import { GrpcServer } from "./grpc-server.ts";
import { framed, maxMessageBytes, messagePrefix, prefixBytes } from "./grpc-wire.ts";

const directory = mkdtempSync(join(tmpdir(), "tinderbox-grpc-"));
const socket = join(directory, "s");
const server = new GrpcServer();
const logger = createLogger({ level: "error", format: "text", write: () => {} });
let client: GrpcClient<typeof RuntimeService>;
let onAbort: () => void = () => {};
let produced = 0;

before(async () => {
  server.add(
    RuntimeService,
    {
      version: async () => ({ version: "0.1.0", runtimeName: "x" }),
      stopPodSandbox: async ({ podSandboxId }) => {
        throw podSandboxId === "known"
          ? new TinderboxError("WRONG_STATE", "pod is\nödd", { hint: "stop it" })
          : new TypeError("oops");
      },
      startContainer: (_, { signal }) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener("abort", () => {
            onAbort();
            reject(signal.reason);
          });
        }),
      async *getContainerEvents() {
        for (let n = 0; n < 500; n++, produced++) yield { containerId: `c${n}`.padEnd(4096, "x") };
      },
      async *streamContainers() {
        yield { containers: [{ id: "a" }] };
        yield { containers: [{ id: "b" }] };
        throw new TinderboxError("NOT_FOUND", "gone");
      },
      removeContainer: async () => {
        await setTimeout(3);
        return {};
      },
      async *streamContainerStats() {
        for (let n = 0; n < 4; n++) {
          await setTimeout(1);
          yield {};
        }
      },
      listContainers: async () => ({ containers: [{ id: "x".repeat(20_000_000) }] }),
    },
    logger,
  );
  await server.listen(socket);
  client = createGrpcClient(RuntimeService, `unix://${socket}`);
});
after(async () => {
  client.close();
  await server.close(500);
  rmSync(directory, { recursive: true });
});

test("callUnary: a request and its answer cross a real socket", async () => {
  assert.equal((await client.callUnary("version", {})).runtimeName, "x");
});

test("GrpcServer: an error keeps its code, text and hint", async () => {
  await assert.rejects(
    client.callUnary("stopPodSandbox", { podSandboxId: "known" }),
    (error: TinderboxError) => {
      assert.equal(error.code, "WRONG_STATE");
      assert.match(error.message, /ödd \(stop it\)/);
      return true;
    },
  );
});

test("GrpcServer: an unknown error is INTERNAL and shows no stack", async () => {
  await assert.rejects(client.callUnary("stopPodSandbox", {}), (error: TinderboxError) => {
    assert.equal(error.code, "INTERNAL");
    assert.equal(error.message, "oops");
    return true;
  });
});

test("GrpcServer: a method left out answers UNIMPLEMENTED by name", async () => {
  await assert.rejects(client.callUnary("checkpointContainer", {}), {
    code: "UNSUPPORTED",
    message: /CheckpointContainer/,
  });
});

test("callStream: every item arrives in order through back-pressure", async () => {
  let n = 0;
  for await (const event of client.callStream("getContainerEvents", {}))
    assert.ok(event.containerId.startsWith(`c${n++}x`));
  assert.equal(n, 500);
});

test("createGrpcClient: no server is UNAVAILABLE", async () => {
  const lost = createGrpcClient(RuntimeService, `unix://${directory}/none`);
  await assert.rejects(lost.callUnary("version", {}), { code: "UNAVAILABLE" });
  lost.close();
});

/** One request on a connection of its own, as no decent client would send it. */
async function raw(
  bytes: Buffer,
  more: OutgoingHttpHeaders = {},
): Promise<{
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  readonly trailers: IncomingHttpHeaders;
}> {
  const session = connect("http://localhost", { createConnection: () => createConnection(socket) });
  try {
    const stream = session.request({
      ":method": "POST",
      ":path": "/runtime.v1.RuntimeService/Version",
      "content-type": "application/grpc",
      te: "trailers",
      ...more,
    });
    let headers: IncomingHttpHeaders = {};
    let trailers: IncomingHttpHeaders = {};
    stream.on("response", (given) => (headers = given));
    stream.on("trailers", (given) => (trailers = given));
    stream.end(bytes);
    const body = await buffer(stream);
    return { headers, body, trailers };
  } finally {
    session.close();
  }
}

const message = (...bytes: readonly number[]): Buffer => framed(Buffer.from(bytes));

test("GrpcServer: what is no request of gRPC's is refused by HTTP's status", async () => {
  assert.equal((await raw(message(), { "content-type": "application/json" })).headers[":status"], 415);
  assert.equal((await raw(message(), { "content-type": "application/grpcx" })).headers[":status"], 415);
  assert.equal((await raw(Buffer.alloc(0), { ":method": "PUT" })).headers[":status"], 405);
});

const refused: readonly [string, Buffer, OutgoingHttpHeaders, string, RegExp][] = [
  ["a path that is none", message(), { ":path": "/runtime.v1.RuntimeService/Nothing" }, "12", /no such call/],
  ["no message", Buffer.alloc(0), {}, "3", /one whole message/],
  ["half a message", message(1, 2, 3).subarray(0, 6), {}, "3", /one whole message/],
  ["two messages", Buffer.concat([message(), message()]), {}, "3", /one whole message/],
  ["a compressed message", Buffer.from([1, 0, 0, 0, 0]), {}, "12", /compressed/],
  ["bytes that are no message", message(0xff, 0xff), {}, "3", /no VersionRequest/],
  ["a time-out that is none", message(), { "grpc-timeout": "soon" }, "3", /grpc-timeout: %?.*soon/],
];
for (const [name, bytes, more, status, text] of refused)
  test(`GrpcServer: ${name} is refused by gRPC's status`, async () => {
    const { headers, body } = await raw(bytes, more);
    assert.equal(headers[":status"], 200);
    assert.equal(headers["grpc-status"], status);
    assert.match(`${headers["grpc-message"]}`, text);
    assert.equal(body.length, 0);
  });

test("GrpcServer: a request of more than 16 MiB is refused before its end", async () => {
  const { headers } = await raw(Buffer.alloc(maxMessageBytes + 100));
  assert.equal(headers["grpc-status"], "8");
  // Just as many are taken.
  const fits = Buffer.alloc(prefixBytes + maxMessageBytes);
  messagePrefix(maxMessageBytes).copy(fits);
  assert.equal((await raw(fits)).headers["grpc-status"], "3");
});

test("GrpcServer: a deadline ends the call for a client that does not look at its clock", async () => {
  const seen = Promise.withResolvers<void>();
  onAbort = seen.resolve;
  const path = "/runtime.v1.RuntimeService/StartContainer";
  const { headers } = await raw(message(), { ":path": path, "grpc-timeout": "50m" });
  assert.equal(headers["grpc-status"], "4");
  await seen.promise;
});

test("GrpcServer: a client that goes away aborts its call", async () => {
  const seen = Promise.withResolvers<void>();
  onAbort = seen.resolve;
  const abort = new AbortController();
  const call = client.callUnary("startContainer", {}, { signal: abort.signal });
  await client.callUnary("version", {});
  abort.abort();
  await assert.rejects(call);
  await seen.promise;
});

test("GrpcServer: a stream's error comes behind its items", async () => {
  const items: string[] = [];
  const reading = (async () => {
    for await (const { containers } of client.callStream("streamContainers", {}))
      items.push(...containers.map(({ id }) => id));
  })();
  await assert.rejects(reading, { code: "NOT_FOUND", message: "gone" });
  assert.deepEqual(items, ["a", "b"]);
});

test("GrpcServer: a reader that stops holds the stream up, and ends it when it goes", async () => {
  produced = 0;
  for await (const event of client.callStream("getContainerEvents", {})) {
    assert.ok(event.containerId.startsWith("c0x"));
    await setTimeout(300);
    break;
  }
  assert.ok(produced < 200, `${produced} of 500 were made for a client that reads none`);
  const before = produced;
  await client.callUnary("version", {});
  await setTimeout(50);
  assert.ok(produced <= before + 1, `${produced - before} more were made behind its end`);
});

test("GrpcServer: an answer of 20 MB comes whole", async () => {
  const { body, trailers } = await raw(message(), { ":path": "/runtime.v1.RuntimeService/ListContainers" });
  assert.equal(body.length, prefixBytes + body.readUInt32BE(1));
  assert.ok(body.length > 20_000_000);
  assert.equal(trailers["grpc-status"], "0");
});

test("GrpcServer: what is no HTTP/2 costs its sender the connection, and nobody else", async () => {
  const connection = createConnection(socket);
  connection.end("GET / HTTP/1.1\r\n\r\n");
  connection.resume();
  await once(connection, "close");
  assert.equal((await client.callUnary("version", {})).runtimeName, "x");
});

test("GrpcServer: calls that are taken back at any moment cost nobody anything", async () => {
  const session = connect("http://localhost", { createConnection: () => createConnection(socket) });
  const names = [
    "Version",
    "StopPodSandbox",
    "StartContainer",
    "RemoveContainer",
    "GetContainerEvents",
    "StreamContainerStats",
    "ListContainers",
    "Nothing",
  ];
  const closed = names.flatMap((name) =>
    Array.from({ length: 40 }, async (_, n) => {
      const stream = session.request({
        ":method": "POST",
        ":path": `/runtime.v1.RuntimeService/${name}`,
        "content-type": "application/grpc",
        "grpc-timeout": "6m",
      });
      stream.on("error", () => {});
      stream.resume();
      if (n % 4 !== 0) stream.end(message());
      await setTimeout(n % 8);
      stream.close(n % 3 === 0 ? constants.NGHTTP2_NO_ERROR : constants.NGHTTP2_CANCEL);
      if (!stream.destroyed) await once(stream, "close");
    }),
  );
  await Promise.all(closed);
  session.close();
  assert.equal((await client.callUnary("version", {})).runtimeName, "x");
});

test("GrpcServer.close: calls that run may end within the grace, and are cut behind it", async () => {
  const path = join(directory, "second");
  const second = new GrpcServer();
  const handlers = {
    version: async () => {
      await setTimeout(100);
      return { runtimeName: "late" };
    },
    startContainer: () => new Promise<never>(() => {}),
  };
  second.add(RuntimeService, handlers, logger);
  await second.listen(path);
  const own = createGrpcClient(RuntimeService, `unix://${path}`);
  const [late, never] = [own.callUnary("version", {}), own.callUnary("startContainer", {})];
  const cut = assert.rejects(never, { code: "UNAVAILABLE" });
  await setTimeout(50);
  const closed = second.close(500);
  assert.equal((await late).runtimeName, "late");
  await cut;
  await closed;
  own.close();
});
