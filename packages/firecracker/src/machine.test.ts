// The life of a machine, with firecracker-qemu before the start (no QEMU yet) and with programs that behave badly.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { adoptMachine } from "./adopt.ts";
import { launchFromConfigFile, launchMachine } from "./launch.ts";
import type { DirectSpawnerOptions } from "./spawner.ts";

const node = process.execPath;
const program = join(import.meta.dirname, "../../firecracker-qemu/src/main.ts");

function folder(t: TestContext): string {
  const directory = mkdtempSync("/tmp/fc-machine-");
  t.after(() => rmSync(directory, { recursive: true }));
  return directory;
}

/** A program that answers as a VMM in `state` and otherwise does what `more` says. */
function answering(directory: string, state: string, more: string): DirectSpawnerOptions {
  const script = join(directory, "vmm.mjs");
  writeFileSync(
    script,
    `import { createServer } from "node:http";
     const asked = [];
     ${more}
     setTimeout(() => createServer((q, a) => {
       let body = "";
       q.on("data", (c) => { body += c; }).on("end", () => {
         asked.push(body);
         if (q.url === "/") return a.end('{"id":"a","state":"${state}"}');
         if (q.url === "/version") return a.end('{"firecracker_version":"1.16.1"}');
         if (q.url === "/vm/config") return a.end('{"drives":[]}');
         if (body.includes("SendCtrlAltDel")) onCtrlAltDel?.();
         if (q.url === "/mmds") return process.exit(148);
         a.writeHead(204).end();
       });
     }).listen(process.argv[3]), 20);`,
  );
  return { binary: script, spawnPrefix: [node], apiSocket: join(directory, "api.sock"), id: "a" };
}

test("launchMachine: what does not start says why, and leaves nothing", async (t) => {
  const directory = folder(t);
  const apiSocket = join(directory, "api.sock");
  await assert.rejects(
    launchMachine({
      binary: "x",
      spawnPrefix: [node, "-e", "console.error('no room'); process.exit(3)", "--"],
      apiSocket,
      id: "a",
    }),
    { code: "FC_EXITED", exitCode: 3, stderrTail: "no room\n" },
  );
  await assert.rejects(launchMachine({ binary: "/nowhere/vmm", apiSocket, id: "a" }), { code: "FC_LAUNCH" });
  await assert.rejects(launchMachine({ binary: "x", apiSocket, id: "a_b" }), {
    code: "FC_ARGUMENT",
    field: "id",
  });
  await assert.rejects(launchMachine({ binary: "x", apiSocket: `/tmp/${"x".repeat(110)}`, id: "a" }), {
    code: "FC_ARGUMENT",
    field: "apiSocket",
  });
  const silent = {
    binary: "x",
    spawnPrefix: [node, "-e", "setInterval(() => {}, 1000)", "--"],
    apiSocket,
    id: "a",
  };
  await assert.rejects(launchMachine({ ...silent, readyTimeoutMs: 300 }), { code: "FC_TIMEOUT" });
  const abort = new AbortController();
  const launching = launchMachine({
    ...silent,
    signal: abort.signal,
    onSpawn: () => abort.abort(new Error("enough")),
  });
  await assert.rejects(launching, /enough/);
  assert.deepEqual(readdirSync(directory), []);
  // Another machine's socket is not touched.
  writeFileSync(apiSocket, "");
  await assert.rejects(launchMachine({ ...silent }), { code: "FC_LAUNCH", message: /exists already/ });
  assert.ok(existsSync(apiSocket));
});

test("Machine: configured by calls that fit its phase; ended once for all its holders; adopted and told of its end", async (t) => {
  const directory = folder(t);
  const apiSocket = join(directory, "api.sock");
  const machine = await launchMachine({
    binary: program,
    spawnPrefix: [node],
    apiSocket,
    id: "a",
    flags: { logLevel: "Off" },
  });
  t.after(() => machine.kill());
  assert.equal(machine.phase, "configurable");
  assert.equal(await machine.api.phase(), "before");
  await machine.api.putMachineConfig({ vcpu_count: 2, mem_size_mib: 256 });
  assert.equal((await machine.api.machineConfig()).mem_size_mib, 256);
  await assert.rejects(machine.api.putMmds({ big: "x".repeat(51_200) }), {
    code: "FC_ARGUMENT",
    field: "body",
  });
  await assert.rejects(machine.start(), { code: "FC_API", status: 400, path: "/actions" });
  await machine.api.putVsock({ guest_cid: 3, uds_path: join(directory, "v") });
  await assert.rejects(machine.api.putVsock({ guest_cid: 3, uds_path: join(directory, "v") }), {
    field: "uds_path",
  });
  await assert.rejects(adoptMachine({ identity: machine.identity, apiSocket, id: "b" }), {
    code: "FC_LAUNCH",
  });
  const stale = { pid: machine.identity.pid, startTime: "1" };
  await assert.rejects(adoptMachine({ identity: stale, apiSocket, id: "a" }), {
    code: "FC_LAUNCH",
    message: /is gone/,
  });
  const adopted = await adoptMachine({ identity: machine.identity, apiSocket, id: "a" });
  assert.equal(adopted.phase, "configurable");
  const waiting = adopted.wait();
  await assert.rejects(adopted.wait({ signal: AbortSignal.abort(new Error("late")) }), /late/);
  // Not started, so the guest is not asked; both callers share one way down.
  const [first, second] = await Promise.all([
    machine.shutdown(),
    machine.shutdown({ guestMs: 1, terminateMs: 1 }),
  ]);
  assert.deepEqual(first, second);
  assert.deepEqual(await waiting, { exitCode: null, signal: null });
  assert.equal(machine.isAlive, false);
  await machine.kill();
  await machine[Symbol.asyncDispose]();
  for (const name of ["api.sock", "v"]) assert.equal(existsSync(join(directory, name)), false, name);
});

test("Machine.shutdown: guest, SIGTERM, SIGKILL, each only when the one before did not do", async (t) => {
  const end = async (
    more: string,
    state = "Running",
  ): Promise<[exitCode: number | null, signal: string | null]> => {
    const directory = folder(t);
    const launched = await launchMachine(answering(directory, state, more));
    t.after(() => launched.kill());
    const machine = await adoptMachine({
      identity: launched.identity,
      apiSocket: launched.apiSocket,
      id: "a",
    });
    await machine.shutdown({ guestMs: 500, terminateMs: 500 });
    const { exitCode, signal } = await launched.wait();
    assert.deepEqual(readdirSync(directory), ["vmm.mjs"]);
    return [exitCode, signal];
  };
  const [willing, unmoved, deaf] = await Promise.all([
    end("const onCtrlAltDel = () => process.exit(0);"),
    end("const onCtrlAltDel = undefined; process.on('SIGTERM', () => process.exit(7));"),
    end("const onCtrlAltDel = undefined; process.on('SIGTERM', () => {});"),
  ]);
  assert.deepEqual(willing, [0, null]);
  assert.deepEqual(unmoved, [7, null]);
  assert.deepEqual(deaf, [null, "SIGKILL"]);
  // A paused guest is not asked.
  assert.deepEqual(await end("const onCtrlAltDel = () => process.exit(0);", "Paused"), [null, "SIGTERM"]);
});

test("Machine: a VMM that dies under a call is FC_EXITED with the meaning of its status; whileAlive ends with it", async (t) => {
  const directory = folder(t);
  const machine = await launchMachine(
    answering(directory, "Not started", "const onCtrlAltDel = undefined; console.log('last words');"),
  );
  const never = machine.whileAlive(new Promise(() => {}));
  const expected = { code: "FC_EXITED", exitCode: 148, message: /seccomp filter.*last words/s };
  await Promise.all([assert.rejects(machine.api.mmds(), expected), assert.rejects(never, expected)]);
  assert.deepEqual(await machine.wait(), { exitCode: 148, signal: null });
  assert.match(machine.stdout?.tail() ?? "", /last words/);
});

test("launchFromConfigFile: what the VMM refuses is FC_EXITED, and no file is left", async (t) => {
  const directory = folder(t);
  const options = {
    binary: join(import.meta.dirname, "../../../bin/firecracker-qemu"),
    apiSocket: join(directory, "api.sock"),
    id: "a",
  };
  const configuration = { "boot-source": { kernel_image_path: join(directory, "none") }, drives: [] };
  await assert.rejects(launchFromConfigFile({ ...options, configuration, flags: { logLevel: "Error" } }), {
    code: "FC_EXITED",
    exitCode: 1,
  });
  await assert.rejects(
    launchFromConfigFile({ ...options, configuration: { ...configuration, serial: {} } }),
    { code: "FC_ARGUMENT" },
  );
  assert.deepEqual(readdirSync(directory), []);
});
