import assert from "node:assert/strict";
import { getEventListeners, once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createConnection, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { dialVsock } from "./vsock.ts";
import { listenVsock } from "./vsock-listener.ts";

/** A hybrid vsock as the VMM has it: `serve` gets what is behind CONNECT, by port. */
async function hybridVsock(
  t: TestContext,
  serve: (port: number, socket: Socket, accept: (more?: string) => void) => void,
): Promise<string> {
  const directory = mkdtempSync("/tmp/fc-vsock-");
  const path = join(directory, "v");
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", (bytes) => {
      const port = /^CONNECT (\d+)\n$/.exec(bytes.toString())?.[1];
      serve(Number(port), socket, (more = "") => void socket.write(`OK 1073741824\n${more}`));
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => {
    server.close();
    rmSync(directory, { recursive: true });
  });
  return path;
}

test("dialVsock: bytes behind the OK line are kept, a refusal is FC_VSOCK", async (t) => {
  const path = await hybridVsock(t, (port, socket, accept) => {
    if (port === 1024) {
      accept("first bytes");
      socket.end();
    } else if (port === 2) socket.end("NO\n");
    else if (port === 4) socket.write("x".repeat(100));
    else if (port !== 5) socket.end();
  });
  let text = "";
  for await (const chunk of await dialVsock(path, 1024)) text += chunk;
  assert.equal(text, "first bytes");
  for (const port of [2, 3, 4]) await assert.rejects(dialVsock(path, port), { code: "FC_VSOCK" });
  await assert.rejects(dialVsock(`${path}-none`, 3), { code: "FC_VSOCK" });
  await assert.rejects(dialVsock(path, 5, { timeoutMs: 20 }), { code: "FC_VSOCK", message: /in 20 ms/ });
  const abort = new AbortController();
  const hanging = dialVsock(path, 5, { signal: abort.signal });
  abort.abort(new Error("enough"));
  await assert.rejects(hanging, /enough/);
  for (const port of [-1, 1.5, 2 ** 32]) await assert.rejects(dialVsock(path, port), { code: "FC_ARGUMENT" });
});

test("dialVsock: tries again while a guest boots, and ends with its last reason or the signal's", async (t) => {
  let tries = 0;
  const path = await hybridVsock(t, (port, socket, accept) => {
    tries += 1;
    if (port === 7 && tries >= 4) accept();
    else socket.end();
  });
  (await dialVsock(path, 7, { retry: { firstMs: 1 } })).destroy();
  assert.equal(tries, 4);
  await assert.rejects(dialVsock(path, 8, { retry: { firstMs: 1, maxMs: 4, totalMs: 30 } }), {
    code: "FC_VSOCK",
  });
  assert.ok(tries > 6);
  const abort = new AbortController();
  const dialling = dialVsock(path, 8, { retry: {}, signal: abort.signal });
  abort.abort(new Error("enough"));
  await assert.rejects(dialling, /enough/);
});

test("dialVsock: a reader that stands still makes the writer stand still, and nothing is lost", async (t) => {
  const total = 8 << 20;
  const path = await hybridVsock(t, (_port, socket, accept) => {
    accept();
    // All at once: it waits in the server until the client reads.
    socket.end(Buffer.alloc(total, "x"));
  });
  const stream = await dialVsock(path, 1);
  let most = 0;
  let size = 0;
  for await (const chunk of stream) {
    size += (chunk as Buffer).length;
    most = Math.max(most, stream.readableLength);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(size, total);
  assert.ok(most <= 1 << 18, `${most} bytes were buffered`);
});

test("dialVsock: 3,000 connections, answered, refused and cut, leave no descriptor and no listener", async (t) => {
  const path = await hybridVsock(t, (port, socket, accept) => {
    if (port % 3 === 0) {
      accept("hello");
      socket.on("data", () => {}).on("end", () => socket.end());
    } else if (port % 3 === 1) socket.end();
    else socket.destroy();
  });
  const descriptors = (): number => readdirSync("/proc/self/fd").length;
  const abort = new AbortController();
  const before = descriptors();
  let accepted = 0;
  for (let port = 0; port < 3_000; port += 50) {
    const dials = Array.from({ length: 50 }, (_, index) =>
      dialVsock(path, port + index, { signal: abort.signal }),
    );
    for (const result of await Promise.allSettled(dials)) {
      if (result.status === "rejected") continue;
      accepted += 1;
      const closed = once(result.value, "close");
      result.value.destroy();
      await closed;
    }
  }
  assert.equal(accepted, 1_000);
  // The server's ends close an event later than ours.
  for (let turn = 0; turn < 200 && descriptors() > before; turn++)
    await new Promise((resolve) => setImmediate(resolve));
  assert.ok(descriptors() <= before, `${before} descriptors became ${descriptors()}`);
  assert.equal(getEventListeners(abort.signal, "abort").length, 0);
});

test("listenVsock: accepts at <uds>_<port> and removes its socket", async (t) => {
  const directory = mkdtempSync("/tmp/fc-vsock-");
  t.after(() => rmSync(directory, { recursive: true }));
  const uds = join(directory, "v");
  const listener = await listenVsock(uds, 1024, { backlog: 1 });
  await assert.rejects(listenVsock(uds, 1024), { code: "FC_VSOCK" });
  const guest = createConnection(`${uds}_1024`);
  (await listener.accept()).destroy();
  guest.destroy();
  await assert.rejects(listener.accept(AbortSignal.abort(new Error("late"))), /late/);
  // Beyond the backlog a guest is sent away.
  const [first, second] = [createConnection(`${uds}_1024`), createConnection(`${uds}_1024`)];
  first.on("error", () => {});
  second.on("error", () => {});
  await once(second, "close");
  (await listener.accept()).destroy();
  const waiting = assert.rejects(listener.accept(), { code: "FC_VSOCK", message: /closed/ });
  await listener.close();
  await waiting;
  await assert.rejects(listener.accept(), { code: "FC_VSOCK" });
  assert.equal(existsSync(`${uds}_1024`), false);
});
