import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { TinderboxError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import { RuntimeService } from "./gen/runtime/v1/api_pb.ts";
import {
  addGrpcService,
  closeGrpc,
  createGrpcClient,
  createGrpcServer,
  type GrpcClient,
  listenGrpc,
} from "./grpc-service.ts";

const directory = mkdtempSync(join(tmpdir(), "tinderbox-grpc-"));
const socket = join(directory, "s");
const server = createGrpcServer();
const logger = createLogger({ level: "error", format: "text", write: () => {} });
let client: GrpcClient<typeof RuntimeService>;
let aborted: () => void = () => {};
const sawAbort = new Promise<void>((resolve) => {
  aborted = resolve;
});

before(async () => {
  addGrpcService(
    server,
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
            aborted();
            reject(signal.reason);
          });
        }),
      async *getContainerEvents() {
        for (let n = 0; n < 500; n++) yield { containerId: `c${n}`.padEnd(4096, "x") };
      },
    },
    logger,
  );
  await listenGrpc(server, socket);
  client = createGrpcClient(RuntimeService, `unix://${socket}`);
});
after(async () => {
  client.close();
  await closeGrpc(server, 500);
  rmSync(directory, { recursive: true });
});

test("callUnary: a request and its answer cross a real socket", async () => {
  assert.equal((await client.callUnary("version", {})).runtimeName, "x");
});

test("addGrpcService: an error keeps its code, text and hint", async () => {
  await assert.rejects(
    client.callUnary("stopPodSandbox", { podSandboxId: "known" }),
    (error: TinderboxError) => {
      assert.equal(error.code, "WRONG_STATE");
      assert.match(error.message, /ödd \(stop it\)/);
      return true;
    },
  );
});

test("addGrpcService: an unknown error is INTERNAL and shows no stack", async () => {
  await assert.rejects(client.callUnary("stopPodSandbox", {}), (error: TinderboxError) => {
    assert.equal(error.code, "INTERNAL");
    assert.equal(error.message, "oops");
    return true;
  });
});

test("addGrpcService: a method left out answers UNIMPLEMENTED by name", async () => {
  await assert.rejects(client.callUnary("checkpointContainer", {}), {
    code: "UNSUPPORTED",
    message: /CheckpointContainer/,
  });
});

test("addGrpcService: the handler's signal aborts when the client's deadline passes", async () => {
  await assert.rejects(client.callUnary("startContainer", {}, { deadlineMs: 50 }), { code: "TIMEOUT" });
  await sawAbort;
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
