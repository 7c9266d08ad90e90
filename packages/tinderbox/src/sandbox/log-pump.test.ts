import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { createLogger } from "../base/log.ts";
import { AgentConnection } from "../rpc/agent-client.ts";
import { encodeFrame, FrameDecoder, frameKind } from "../rpc/agent-frame-codec.ts";
import { HelloSchema, RequestSchema, ResponseSchema } from "../rpc/gen/tinderbox/agent/v1/agent_pb.ts";
import { LogPump } from "./log-pump.ts";

const lines = Buffer.from(
  Array.from({ length: 2000 }, (_, n) => `2026-01-01T00:00:00.000000000Z stdout F line ${n}\n`).join(""),
);

/** The offset behind the first line that ends at `near` or later: an agent's spool ends there. */
const lineEnd = (near: number): number => lines.indexOf("\n", near) + 1;

/** Speaks the agent's side of OpenLog: everything from the offset asked for up to `end`, in uneven pieces. */
async function logAgent(
  path: string,
  state: { end: number; eof: boolean; offsets: number[]; cutAt?: number | undefined },
) {
  const server = createServer((socket) => {
    const decoder = new FrameDecoder();
    socket.on("error", () => {});
    socket.write(
      encodeFrame(frameKind.hello, 0, toBinary(HelloSchema, create(HelloSchema, { protocol: 1 }))),
    );
    socket.on("data", (bytes) => {
      for (const frame of decoder.push(bytes)) {
        if (frame.kind !== frameKind.request) continue;
        const request = fromBinary(RequestSchema, frame.payload);
        if (request.body.case !== "openLog") continue;
        let at = Number(request.body.value.offset);
        state.offsets.push(at);
        socket.write(
          encodeFrame(
            frameKind.response,
            0,
            toBinary(ResponseSchema, create(ResponseSchema, { id: request.id })),
          ),
        );
        if (state.cutAt !== undefined) {
          // Gone within a frame, as an agent is whose write was given up.
          const frame = encodeFrame(frameKind.data, 1, lines.subarray(at, state.cutAt));
          socket.end(Buffer.concat([frame, frame.subarray(0, frame.length - 5)]));
          state.cutAt = undefined;
          continue;
        }
        for (; at < state.end; at += 777)
          socket.write(encodeFrame(frameKind.data, 1, lines.subarray(at, Math.min(at + 777, state.end))));
        if (state.eof) socket.write(encodeFrame(frameKind.eof, 1));
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return server;
}

test("LogPump: rotation and a daemon restart, also one between rename and reopen, neither lose nor double a byte", async (t) => {
  const directory = mkdtempSync("/tmp/log-pump-");
  t.after(() => rmSync(directory, { recursive: true }));
  const state = { end: lineEnd(30_000), eof: false, offsets: [] as number[] };
  const server = await logAgent(join(directory, "s"), state);
  t.after(() => server.close());
  const log = createLogger({ level: "error", format: "text" });
  const openStream = async (body: Parameters<AgentConnection["openStream"]>[0]) => {
    const connection = await AgentConnection.open(createConnection(join(directory, "s")));
    return { stream: await connection.openStream(body), release: () => connection.close() };
  };
  const path = join(directory, "0.log");
  const first = new LogPump(join(directory, "records"), "c", log);
  await first.begin(path);
  first.run(openStream);
  await first.drained(state.end);
  await first.close();
  // The daemon is away; the kubelet has renamed the file but not asked for a reopen yet.
  renameSync(path, `${path}.old`);
  state.end = lineEnd(60_000);
  const second = new LogPump(join(directory, "records"), "c", log);
  assert.equal(await second.resume(), true);
  second.run(openStream);
  await second.drained(state.end);
  await second.reopen(path);
  await second.close();
  state.end = lines.length;
  state.eof = true;
  const third = new LogPump(join(directory, "records"), "c", log);
  assert.equal(await third.resume(), true);
  third.run(openStream);
  await third.drained(lines.length);
  await third.remove();
  assert.deepEqual(state.offsets, [0, lineEnd(30_000), lineEnd(60_000)]);
  assert.equal(readFileSync(`${path}.old`, "utf8") + readFileSync(path, "utf8"), lines.toString());
});

/** A pump of `state`'s agent, and where it writes. */
async function pumpOf(t: TestContext, state: Parameters<typeof logAgent>[1]) {
  const directory = mkdtempSync("/tmp/log-pump-");
  const server = await logAgent(join(directory, "s"), state);
  const connections: AgentConnection[] = [];
  t.after(() => {
    for (const connection of connections) connection.close();
    server.close();
    rmSync(directory, { recursive: true });
  });
  const pump = new LogPump(
    join(directory, "records"),
    "c",
    createLogger({ level: "error", format: "text", write: () => {} }),
  );
  const run = (): void =>
    pump.run(async (body) => {
      const connection = await AgentConnection.open(createConnection(join(directory, "s")));
      connections.push(connection);
      return { stream: await connection.openStream(body), release: () => connection.close() };
    });
  return { pump, run, directory };
}

test("LogPump: files are changed at the end of a line, however the bytes come", async (t) => {
  const state = { end: lines.length, eof: true, offsets: [] };
  const { pump, run, directory } = await pumpOf(t, state);
  const names = Array.from({ length: 20 }, (_, n) => join(directory, `${n}.log`));
  await pump.begin(names[0] ?? "");
  run();
  for (const name of names.slice(1)) await pump.reopen(name);
  await pump.drained(lines.length);
  await pump.remove();
  const texts = names.map((name) => readFileSync(name, "utf8"));
  assert.equal(texts.join(""), lines.toString());
  for (const text of texts) assert.match(text, /^$|\n$/);
});

test("LogPump: a stream that breaks within a frame is taken up again where the file ends", async (t) => {
  const state = { end: lines.length, eof: true, offsets: [] as number[], cutAt: 5000 };
  const { pump, run, directory } = await pumpOf(t, state);
  await pump.begin(join(directory, "0.log"));
  run();
  await pump.drained(lines.length);
  await pump.remove();
  assert.deepEqual(state.offsets, [0, 5000]);
  assert.equal(readFileSync(join(directory, "0.log"), "utf8"), lines.toString());
});

test("LogPump: after a file that could not be written a new one gets all the rest", async (t) => {
  const state = { end: lines.length, eof: true, offsets: [] };
  const { pump, run, directory } = await pumpOf(t, state);
  await pump.begin("/dev/full");
  run();
  // It has given up by then.
  await pump.drained(lines.length);
  await pump.reopen(join(directory, "1.log"));
  await pump.drained(lines.length);
  await pump.remove();
  assert.equal(readFileSync(join(directory, "1.log"), "utf8"), lines.toString());
});
