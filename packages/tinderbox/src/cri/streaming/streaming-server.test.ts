/** The protocol only: real clients drive it in tests/. The engine here is an object that echoes. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { Duplex, PassThrough } from "node:stream";
import { after, before, test } from "node:test";
import WebSocket from "ws";
import { SpdyClient } from "../../../../../tests/support/spdy-client.ts";
import { TinderboxError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import type { ExecRequest } from "../../engine/contract.ts";
import type { ExitResult, ProcessStreams } from "../../sandbox/contract.ts";
import { openStreamingServer, type StreamingEngine, type StreamingServer } from "./streaming-server.ts";

const seenSizes: string[] = [];

/** A process that copies stdin to stdout, says "bye" on stderr at its end and exits with 7. */
function echoProcess(request: ExecRequest): ProcessStreams {
  const pipe = new PassThrough();
  const exit = Promise.withResolvers<ExitResult>();
  return {
    async writeStdin(chunk) {
      if (!pipe.write(chunk)) await once(pipe, "drain");
    },
    endStdin: () => void pipe.end(),
    async *output() {
      if (request.stdin) for await (const data of pipe) yield { channel: "stdout", data: data as Uint8Array };
      yield { channel: "stderr", data: Buffer.from("bye") };
      exit.resolve({ code: 7, timedOut: false, error: "" });
    },
    resize: (width, height) => void seenSizes.push(`${width}x${height}`),
    exit: exit.promise,
    close: () => void pipe.destroy(),
  };
}

const dialling = Promise.withResolvers<void>();
let dropped = Promise.withResolvers<void>();
/** A connection to a pod that takes everything and answers nothing; its end is `dropped`. */
function silent(): Duplex {
  return new Duplex({
    read: () => {},
    write: (_chunk, _encoding, done) => done(),
    destroy: (cause, done) => {
      dropped.resolve();
      done(cause);
    },
  });
}

const engine: StreamingEngine = {
  exec: async (_, request) => {
    if (request.command[0] === "fail") throw new TinderboxError("RUNTIME", "no such program");
    return echoProcess(request);
  },
  attach: () => Promise.reject(new TinderboxError("UNSUPPORTED", "not here")),
  portForward: async (_, port) => {
    if (port === 1) throw new TinderboxError("UNAVAILABLE", "refused");
    // One that never says anything, and one that takes its time to connect.
    if (port === 2) return silent();
    if (port === 3) {
      await dialling.promise;
      return silent();
    }
    const pipe = new PassThrough();
    return Duplex.from({ readable: pipe, writable: pipe });
  },
};

let server: StreamingServer;
before(async () => {
  server = await openStreamingServer(
    engine,
    createLogger({ level: "error", format: "text", write: () => {} }),
  );
});
after(() => server.close());

const session = { containerId: "c", command: ["cat"], stdin: true, stdout: true, stderr: true, tty: false };

test("SPDY exec: streams, half-close, exit status; then the connection ends", async () => {
  const client = await SpdyClient.open(server.execUrl(session), "v4.channel.k8s.io");
  ["error", "stdin", "stdout", "stderr"].forEach((streamtype, n) => {
    client.open(2 * n + 1, { streamtype });
  });
  const big = Buffer.alloc(3 << 20, "x");
  void client.send(3, "hello ");
  void client.send(3, big);
  void client.send(3, "", true);
  await client.end(5);
  assert.equal(client.received(5).bytes, 6 + big.length);
  assert.equal(await client.end(7), "bye");
  assert.deepEqual(JSON.parse(await client.end(1)).details, {
    causes: [{ reason: "ExitCode", message: "7" }],
  });
  client.destroy();
  await client.closed;
});

test("SPDY exec: a start that fails is told on the error stream", async () => {
  const client = await SpdyClient.open(
    server.execUrl({ ...session, stdin: false, stderr: false, command: ["fail"] }),
    "v4.channel.k8s.io",
  );
  client.open(1, { streamtype: "error" });
  client.open(3, { streamtype: "stdout" });
  const status = JSON.parse(await client.end(1));
  assert.deepEqual([status.reason, status.message], ["InternalError", "no such program"]);
  client.destroy();
});

test("SPDY exec: a size that comes before the process is not lost", async () => {
  const client = await SpdyClient.open(
    server.execUrl({ ...session, stdin: false, stderr: false, tty: true }),
    "v4.channel.k8s.io",
  );
  client.open(1, { streamtype: "error" });
  client.open(3, { streamtype: "resize" });
  void client.send(3, '{"Width":99,"Hei');
  void client.send(3, 'ght":33}\n');
  client.open(5, { streamtype: "stdout" });
  await client.end(1);
  assert.ok(seenSizes.includes("99x33"));
  client.destroy();
});

test("SPDY port-forward: pairs by request id; a port that refuses is told on its error stream", async () => {
  const client = await SpdyClient.open(server.portForwardUrl({ podId: "p" }), "portforward.k8s.io");
  client.open(1, { streamtype: "error", port: "80", requestid: "0" });
  client.open(3, { streamtype: "data", port: "80", requestid: "0" });
  client.open(5, { streamtype: "error", port: "1", requestid: "1" });
  client.open(7, { streamtype: "data", port: "1", requestid: "1" });
  void client.send(3, "through", true);
  assert.equal(await client.end(3), "through");
  assert.equal(await client.end(1), "");
  assert.match(await client.end(5), /^port 1: refused$/);
  client.destroy();
});

test("SPDY port-forward: a stream that the client resets lets the pod's connection go, silent as it is", async () => {
  for (const open of [
    () => SpdyClient.open(server.portForwardUrl({ podId: "p" }), "portforward.k8s.io"),
    () => SpdyClient.tunnel(server.portForwardUrl({ podId: "p" })),
  ]) {
    dropped = Promise.withResolvers();
    const client = await open();
    client.open(1, { streamtype: "error", port: "2", requestid: "0" });
    client.open(3, { streamtype: "data", port: "2", requestid: "0" });
    await client.send(3, "hello");
    client.reset(3);
    await dropped.promise;
    // The others of the connection go on.
    client.open(5, { streamtype: "error", port: "80", requestid: "1" });
    client.open(7, { streamtype: "data", port: "80", requestid: "1" });
    await client.send(7, "through", true);
    assert.equal(await client.end(7), "through");
    client.destroy();
  }
});

test("SPDY port-forward: a client that goes while the pod is dialled leaves no connection", async () => {
  dropped = Promise.withResolvers();
  const client = await SpdyClient.open(server.portForwardUrl({ podId: "p" }), "portforward.k8s.io");
  client.open(1, { streamtype: "error", port: "3", requestid: "0" });
  client.open(3, { streamtype: "data", port: "3", requestid: "0" });
  client.open(5, { streamtype: "error", port: "80", requestid: "1" });
  client.open(7, { streamtype: "data", port: "80", requestid: "1" });
  void client.send(7, "there", true);
  await client.end(7);
  client.destroy();
  await client.closed;
  // The server has seen it, too, once it serves the next one.
  assert.equal((await fetch(server.execUrl(session))).status, 400);
  dialling.resolve();
  await dropped.promise;
});

test("SPDY port-forward: a stream that the client resets, as client-go ends each of its connections, is no error", async (context) => {
  const client = await SpdyClient.open(server.portForwardUrl({ podId: "p" }), "portforward.k8s.io");
  context.after(() => client.destroy());
  for (const [n, id] of [1, 5].entries()) {
    client.open(id, { streamtype: "error", port: "80", requestid: String(n) });
    client.open(id + 2, { streamtype: "data", port: "80", requestid: String(n) });
  }
  void client.send(3, "over", true);
  assert.equal(await client.end(3), "over");
  client.reset(3);
  assert.equal(await client.end(1), "");
  client.reset(7);
  assert.equal(await client.end(5), "");
});

test("WebSocket exec: v5 channels, the close signal for stdin, exit status", async () => {
  const socket = new WebSocket(server.execUrl(session), ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
  const channels: string[] = ["", "", "", ""];
  socket.on("message", (data: Buffer) => {
    const channel = data[0] ?? 255;
    channels[channel] = (channels[channel] ?? "") + data.toString("utf8", 1);
  });
  await once(socket, "open");
  assert.equal(socket.protocol, "v5.channel.k8s.io");
  socket.send(Buffer.from("\0ping"));
  socket.send(Buffer.from([255, 0]));
  await once(socket, "close");
  assert.deepEqual(channels.slice(1, 3), ["ping", "bye"]);
  assert.equal(JSON.parse(channels[3] ?? "").reason, "NonZeroExitCode");
});

test("streaming server: a connection on which nothing happens is closed, with the pod's", async () => {
  const logger = createLogger({ level: "error", format: "text", write: () => {} });
  const impatient = await openStreamingServer(engine, logger, 200);
  dropped = Promise.withResolvers();
  const client = await SpdyClient.open(impatient.portForwardUrl({ podId: "p" }), "portforward.k8s.io");
  client.open(1, { streamtype: "error", port: "2", requestid: "0" });
  client.open(3, { streamtype: "data", port: "2", requestid: "0" });
  await client.closed;
  await dropped.promise;
  await impatient.close();
});

test("streaming server: a URL works once, for its own kind, and for an upgrade only", async () => {
  const url = server.execUrl(session);
  assert.equal((await fetch(url)).status, 400);
  const refused = async (address: string): Promise<string> => {
    const socket = new WebSocket(address, ["v5.channel.k8s.io"]);
    return new Promise((resolve) => {
      socket.on("error", (error) => resolve(error.message));
      socket.on("open", () => {
        socket.terminate();
        resolve("open");
      });
    });
  };
  assert.match(await refused(url.replace("/exec/", "/attach/")), /404/);
  assert.match(await refused(url), /404/);
  const second = server.execUrl(session);
  assert.equal(await refused(second), "open");
  assert.match(await refused(second), /404/);
});
