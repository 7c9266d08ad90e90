import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { dialVsock } from "./vsock.ts";
import { listenVsock } from "./vsock-listener.ts";

test("dialVsock: bytes behind the OK line are kept, a refusal is FC_VSOCK", async (t) => {
  const directory = mkdtempSync("/tmp/fc-vsock-");
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "v");
  const server = createServer((socket) => {
    socket.once("data", (bytes) => {
      if (bytes.toString() === "CONNECT 1024\n") socket.end("OK 1073741824\nfirst bytes");
      else if (bytes.toString() === "CONNECT 2\n") socket.end("NO\n");
      else socket.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => server.close());
  let text = "";
  for await (const chunk of await dialVsock(path, 1024)) text += chunk;
  assert.equal(text, "first bytes");
  await assert.rejects(dialVsock(path, 2), { code: "FC_VSOCK" });
  await assert.rejects(dialVsock(path, 3), { code: "FC_VSOCK" });
  await assert.rejects(dialVsock(join(directory, "none"), 3), { code: "FC_VSOCK" });
});

test("listenVsock: accepts at <uds>_<port> and removes its socket", async (t) => {
  const directory = mkdtempSync("/tmp/fc-vsock-");
  t.after(() => rmSync(directory, { recursive: true }));
  const listener = await listenVsock(join(directory, "v"), 1024);
  const guest = createConnection(join(directory, "v_1024"));
  (await listener.accept()).destroy();
  guest.destroy();
  const abort = AbortSignal.abort(new Error("late"));
  await assert.rejects(listener.accept(abort), /late/);
  await listener.close();
  assert.equal(existsSync(join(directory, "v_1024")), false);
});
