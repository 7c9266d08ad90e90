import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { adoptMachine } from "./adopt.ts";
import { launchMachine } from "./launch.ts";

test("launchMachine: a VMM that ends at once is FC_EXITED with its last words; one that answers can be adopted and killed", async (t) => {
  const directory = mkdtempSync("/tmp/fc-machine-");
  t.after(() => rmSync(directory, { recursive: true }));
  const apiSocket = join(directory, "api.sock");
  const node = process.execPath;
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
  const script = join(directory, "vmm.mjs");
  writeFileSync(
    script,
    `import { createServer } from "node:http";
     setTimeout(() => createServer((q, a) => a.end('{"id":"a"}')).listen(process.argv[3]), 20);`,
  );
  const machine = await launchMachine({ binary: script, spawnPrefix: [node], apiSocket, id: "a" });
  await assert.rejects(adoptMachine({ identity: machine.identity, apiSocket, id: "b" }), {
    code: "FC_LAUNCH",
  });
  const adopted = await adoptMachine({ identity: machine.identity, apiSocket, id: "a" });
  await machine.kill();
  assert.deepEqual(await machine.wait(), { exitCode: null, signal: "SIGKILL" });
  assert.deepEqual(await adopted.wait(), { exitCode: null, signal: null });
});
