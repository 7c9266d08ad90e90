import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { spawnPageFaultHandler } from "./page-faults.ts";

test("spawnPageFaultHandler: ready without taking the one connection that a handler accepts; ended with all it left", async (t) => {
  const directory = mkdtempSync("/tmp/fc-uffd-");
  t.after(() => rmSync(directory, { recursive: true }));
  const socketPath = join(directory, "u");
  const handler = (script: string, readyTimeoutMs = 10_000): ReturnType<typeof spawnPageFaultHandler> =>
    spawnPageFaultHandler({
      socketPath,
      file: process.execPath,
      args: ["-e", script, socketPath],
      readyTimeoutMs,
    });
  {
    await using serving = await handler(
      `const server = require("net").createServer((socket) => { server.close(); socket.end("served"); }).listen(process.argv[1])`,
    );
    const machine = createConnection(serving.socketPath);
    const [chunk] = await once(machine, "data");
    assert.equal(String(chunk), "served");
    assert.deepEqual(await serving.wait(), { exitCode: 0, signal: null });
  }
  await assert.rejects(handler("console.error('no memory'); process.exit(4)"), {
    code: "FC_EXITED",
    exitCode: 4,
    stderrTail: "no memory\n",
  });
  await assert.rejects(handler("setInterval(() => {}, 1000)", 200), { code: "FC_TIMEOUT" });
  await assert.rejects(spawnPageFaultHandler({ socketPath, file: "/nowhere/handler", args: [] }), {
    code: "FC_LAUNCH",
  });
  assert.deepEqual(readdirSync(directory), []);
});
