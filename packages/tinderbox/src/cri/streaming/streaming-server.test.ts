/** The protocol only: real clients drive it in tests/. The engine here is an object that echoes. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { Duplex, PassThrough } from "node:stream";
import { after, before, test } from "node:test";
import WebSocket from "ws";
import { TinderboxError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import type { ExecRequest } from "../../engine/contract.ts";
import type { ExitResult, ProcessStreams } from "../../sandbox/contract.ts";
import { controlFrame, controlType, dataHead, SpdyFrameReader, uint32 } from "./spdy-frame-codec.ts";
import { HeaderReader, HeaderWriter } from "./spdy-header-block.ts";
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

const engine: StreamingEngine = {
  exec: async (_, request) => {
    if (request.command[0] === "fail") throw new TinderboxError("RUNTIME", "no such program");
    return echoProcess(request);
  },
  attach: () => Promise.reject(new TinderboxError("UNSUPPORTED", "not here")),
  portForward: async (_, port) => {
    if (port === 1) throw new TinderboxError("UNAVAILABLE", "refused");
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

/** A SPDY client: enough to open streams and to gather what comes on them. */
class Client {
  readonly socket: Socket;
  readonly received = new Map<number, Buffer>();
  readonly ended = new Set<number>();
  readonly closed: Promise<unknown>;
  readonly #writer = new HeaderWriter();
  readonly #waiting: (() => void)[] = [];

  private constructor(socket: Socket, rest: Buffer) {
    this.socket = socket;
    const reader = new SpdyFrameReader();
    const headers = new HeaderReader();
    const take = (chunk: Buffer): void => {
      for (const frame of reader.push(chunk)) {
        if (frame.kind === "data") {
          const before = this.received.get(frame.streamId) ?? Buffer.alloc(0);
          this.received.set(frame.streamId, Buffer.concat([before, frame.payload]));
          if (frame.fin) this.ended.add(frame.streamId);
        } else if (frame.type === controlType.synReply) void headers.read(frame.payload.subarray(4));
      }
      for (const wake of this.#waiting.splice(0)) wake();
    };
    socket.on("data", take);
    socket.on("error", () => {});
    this.closed = once(socket, "close");
    take(rest);
  }

  static async open(url: string, protocol: string): Promise<Client> {
    const { port, pathname } = new URL(url);
    const socket = connect(Number(port), "127.0.0.1");
    socket.write(
      `POST ${pathname} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n` +
        `X-Stream-Protocol-Version: v5.channel.k8s.io, ${protocol}\r\nContent-Length: 0\r\n\r\n`,
    );
    let head = Buffer.alloc(0);
    while (!head.includes("\r\n\r\n"))
      head = Buffer.concat([head, (await once(socket, "data"))[0] as Buffer]);
    const end = head.indexOf("\r\n\r\n");
    assert.match(
      head.toString("latin1", 0, end),
      new RegExp(`^HTTP/1.1 101 [^]*X-Stream-Protocol-Version: ${protocol}$`),
    );
    return new Client(socket, head.subarray(end + 4));
  }

  open(id: number, headers: Record<string, string>): void {
    const block = this.#writer.write(new Map(Object.entries(headers)));
    this.socket.write(controlFrame(controlType.synStream, 0, uint32(id), uint32(0), Buffer.alloc(2), block));
  }
  send(id: number, data: string | Buffer, fin = false): void {
    const payload = Buffer.from(data);
    this.socket.write(Buffer.concat([dataHead(id, payload.length, fin), payload]));
  }
  async end(id: number): Promise<string> {
    while (!this.ended.has(id)) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return (this.received.get(id) ?? "").toString();
  }
}

test("SPDY exec: streams, half-close, exit status; then the connection ends", async () => {
  const client = await Client.open(server.execUrl(session), "v4.channel.k8s.io");
  ["error", "stdin", "stdout", "stderr"].forEach((streamtype, n) => {
    client.open(2 * n + 1, { streamtype });
  });
  const big = Buffer.alloc(3 << 20, "x");
  client.send(3, "hello ");
  client.send(3, big);
  client.send(3, "", true);
  assert.equal((await client.end(5)).length, 6 + big.length);
  assert.equal(await client.end(7), "bye");
  assert.deepEqual(JSON.parse(await client.end(1)).details, {
    causes: [{ reason: "ExitCode", message: "7" }],
  });
  client.socket.end();
  await client.closed;
});

test("SPDY exec: a start that fails is told on the error stream", async () => {
  const client = await Client.open(
    server.execUrl({ ...session, stdin: false, stderr: false, command: ["fail"] }),
    "v4.channel.k8s.io",
  );
  client.open(1, { streamtype: "error" });
  client.open(3, { streamtype: "stdout" });
  const status = JSON.parse(await client.end(1));
  assert.deepEqual([status.reason, status.message], ["InternalError", "no such program"]);
  client.socket.destroy();
});

test("SPDY exec: a size that comes before the process is not lost", async () => {
  const client = await Client.open(
    server.execUrl({ ...session, stdin: false, stderr: false, tty: true }),
    "v4.channel.k8s.io",
  );
  client.open(1, { streamtype: "error" });
  client.open(3, { streamtype: "resize" });
  client.send(3, '{"Width":99,"Hei');
  client.send(3, 'ght":33}\n');
  client.open(5, { streamtype: "stdout" });
  await client.end(1);
  assert.ok(seenSizes.includes("99x33"));
  client.socket.destroy();
});

test("SPDY port-forward: pairs by request id; a port that refuses is told on its error stream", async () => {
  const client = await Client.open(server.portForwardUrl({ podId: "p" }), "portforward.k8s.io");
  client.open(1, { streamtype: "error", port: "80", requestid: "0" });
  client.open(3, { streamtype: "data", port: "80", requestid: "0" });
  client.open(5, { streamtype: "error", port: "1", requestid: "1" });
  client.open(7, { streamtype: "data", port: "1", requestid: "1" });
  client.send(3, "through", true);
  assert.equal(await client.end(3), "through");
  assert.equal(await client.end(1), "");
  assert.match(await client.end(5), /^port 1: refused$/);
  client.socket.destroy();
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
