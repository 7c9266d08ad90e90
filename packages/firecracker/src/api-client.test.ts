import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { FirecrackerClient } from "./api-client.ts";

test("FirecrackerClient: order, lengths, faults and aborts over a real socket", async (t) => {
  const directory = mkdtempSync("/tmp/fc-api-");
  t.after(() => rmSync(directory, { recursive: true }));
  const seen: string[] = [];
  let connections = 0;
  let started = false;
  const server = createServer((incoming, answer) => {
    let body = "";
    incoming.on("data", (chunk) => {
      body += chunk;
    });
    incoming.on("end", () => {
      seen.push(`${incoming.method} ${incoming.url} ${incoming.headers["content-length"] ?? "-"} ${body}`);
      if (incoming.url === "/")
        return answer.writeHead(200).end(JSON.stringify({ state: started ? "Running" : "Not started" }));
      if (incoming.url === "/version") return answer.writeHead(200).end('{"firecracker_version":"1.16.1"}');
      if (incoming.url === "/actions") started = true;
      if (incoming.url === "/boot-source")
        return answer.writeHead(400).end('{"fault_message":"no such kernel"}');
      if (incoming.url === "/mmds") return; // never answers
      return answer.writeHead(204).end();
    });
  });
  server.on("connection", () => connections++);
  const socketPath = join(directory, "s");
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  using client = new FirecrackerClient(socketPath);
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  const [, version] = await Promise.all([
    client.putMachineConfig({ vcpu_count: 1, mem_size_mib: 128 }),
    client.version(),
    client.putDrive({ drive_id: "a", is_root_device: false }),
    client.startInstance(),
    client.deleteDrive("a"),
  ]);
  assert.equal(version.firecracker_version, "1.16.1");
  assert.deepEqual(seen, [
    "GET / - ",
    "GET /version - ",
    'PUT /machine-config 35 {"vcpu_count":1,"mem_size_mib":128}',
    "GET /version - ",
    'PUT /drives/a 39 {"drive_id":"a","is_root_device":false}',
    'PUT /actions 31 {"action_type":"InstanceStart"}',
    "DELETE /drives/a - ",
  ]);
  await assert.rejects(client.request("PUT", "/boot-source", { kernel_image_path: "/k" }), {
    code: "FC_API",
    status: 400,
    faultMessage: "no such kernel",
    method: "PUT",
    path: "/boot-source",
  });
  assert.equal(connections, 1);
  const abort = new AbortController();
  const hanging = client.mmds({ signal: abort.signal });
  server.once("request", () => abort.abort(new Error("enough")));
  await assert.rejects(hanging, /enough/);
});

test("FirecrackerClient: a call that is given up while it waits is not sent; the state is asked again before a refusal", async (t) => {
  const directory = mkdtempSync("/tmp/fc-api-");
  t.after(() => rmSync(directory, { recursive: true }));
  const seen: string[] = [];
  let state = "Not started";
  const { promise: asked, resolve: onAsked } = Promise.withResolvers<() => void>();
  const server = createServer((incoming, answer) => {
    seen.push(`${incoming.method} ${incoming.url}`);
    incoming.resume();
    if (incoming.url === "/") return answer.end(JSON.stringify({ state }));
    if (incoming.url === "/version") return answer.end('{"firecracker_version":"1.17.0-dev"}');
    if (incoming.url === "/mmds" && incoming.method === "GET") {
      onAsked(() => answer.end("{}"));
      return;
    }
    return answer.writeHead(204).end();
  });
  const socketPath = join(directory, "s");
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  using client = new FirecrackerClient(socketPath);
  const slow = client.mmds();
  const late = client.putMmds({}, { timeoutMs: 30 });
  const abort = new AbortController();
  const aborted = client.patchMmds({}, { signal: abort.signal });
  const next = client.vmmVersion();
  await assert.rejects(late, { code: "FC_TIMEOUT", message: /PUT \/mmds: no answer in 30 ms/ });
  abort.abort(new Error("enough"));
  await assert.rejects(aborted, /enough/);
  (await asked)();
  assert.deepEqual(await slow, {});
  assert.equal(await next, "1.17.0-dev");
  assert.deepEqual(seen, ["GET /mmds", "GET /version"]);
  await assert.rejects(client.patchDrive({ drive_id: "a" }), { code: "FC_STATE" });
  // Somebody else has started it.
  state = "Running";
  await client.patchDrive({ drive_id: "a" });
  await assert.rejects(client.putBootSource({ kernel_image_path: "/k" }), { code: "FC_STATE" });
  assert.deepEqual(seen.slice(2), ["GET /", "GET /", "GET /", "PATCH /drives/a", "GET /"]);
});
