import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { isListed, socketReady } from "./socket-ready.ts";

test("socketReady: woken by the socket, also in folders that come later; ends with the signal's reason", async (t) => {
  const directory = mkdtempSync("/tmp/fc-ready-");
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "jail/root/run/api.sock");
  const ready = socketReady(path, AbortSignal.timeout(10_000));
  const step = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  await step();
  mkdirSync(join(directory, "jail"));
  await step();
  // Two at once: the second may be there before the first is watched.
  mkdirSync(join(directory, "jail/root/run"), { recursive: true });
  await step();
  const server = createServer().listen(path);
  t.after(() => server.close());
  await ready;
  await socketReady(path, AbortSignal.timeout(10_000));
  // Known without a connection, too.
  let connections = 0;
  server.on("connection", () => connections++);
  await socketReady(path, AbortSignal.timeout(10_000), isListed);
  await step();
  assert.equal(connections, 0);
  const late = socketReady(join(directory, "late.sock"), AbortSignal.timeout(10_000), isListed);
  const second = createServer().listen(join(directory, "late.sock"));
  t.after(() => second.close());
  await late;
  const abort = new AbortController();
  const never = socketReady(join(directory, "other/sock"), abort.signal);
  abort.abort(new Error("enough"));
  await assert.rejects(never, /enough/);
  await assert.rejects(socketReady(path, AbortSignal.abort(new Error("before"))), /before/);
});
