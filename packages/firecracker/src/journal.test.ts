// Machines outlive us: programs of ours are killed while they own one, and the journal tells what is there.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { adoptMachine } from "./adopt.ts";
import { MachineJournal } from "./journal.ts";
import { launchMachine } from "./launch.ts";
import { bootId, findVmms, isVmmAlive, signalVmm } from "./process-identity.ts";

const node = process.execPath;
const program = join(import.meta.dirname, "../../firecracker-qemu/src/main.ts");

function folder(t: TestContext): string {
  const directory = mkdtempSync("/tmp/fc-journal-");
  t.after(() => rmSync(directory, { recursive: true }));
  return directory;
}

/** A program of its own that launches a machine and does `then` with it; says "ready" by a line. */
async function owner(directory: string, then: string): Promise<ChildProcess> {
  const script = join(directory, "owner.ts");
  writeFileSync(
    script,
    `import { openSync } from "node:fs";
     import { launchMachine } from ${JSON.stringify(join(import.meta.dirname, "launch.ts"))};
     import { MachineJournal } from ${JSON.stringify(join(import.meta.dirname, "journal.ts"))};
     const options = {
       binary: ${JSON.stringify(program)}, spawnPrefix: [process.execPath], id: "m-1",
       apiSocket: ${JSON.stringify(join(directory, "api.sock"))}, args: ["--level", "Off"],
       outputFd: openSync(${JSON.stringify(join(directory, "out"))}, "a"),
       journal: new MachineJournal(${JSON.stringify(join(directory, "journal"))}),
     };
     ${then}
     setInterval(() => {}, 1000);`,
  );
  const child = spawn(node, [script], { stdio: ["ignore", "pipe", "inherit"] });
  await Promise.race([
    once(createInterface(child.stdout), "line"),
    once(child, "exit").then(() => assert.fail("the owner ended before it was ready")),
  ]);
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  child.kill("SIGKILL");
  await once(child, "exit");
}

const record = (directory: string): { identity?: { pid: number; startTime: string } } =>
  JSON.parse(readFileSync(join(directory, "journal/m-1.json"), "utf8"));

test("MachineJournal: a machine whose owner was killed is found, adopted and ended; then there is nothing", async (t) => {
  const directory = folder(t);
  await kill(
    await owner(
      directory,
      `const m = await launchMachine(options);
       await m.api.putVsock({ guest_cid: 3, uds_path: ${JSON.stringify(join(directory, "v"))} });
       console.log("ready");`,
    ),
  );
  const journal = new MachineJournal(join(directory, "journal"));
  const { live, cleaned, failed } = await journal.recover();
  assert.deepEqual([live.map(({ id }) => id), cleaned, failed], [["m-1"], [], []]);
  const [found] = live;
  assert.ok(found);
  assert.equal(found.vsockPath, join(directory, "v"));
  await assert.rejects(
    launchMachine({
      binary: program,
      spawnPrefix: [node],
      id: "m-1",
      apiSocket: join(directory, "other.sock"),
      journal,
    }),
    { code: "FC_LAUNCH", message: /already/ },
  );
  await using machine = await adoptMachine(found);
  await machine.kill();
  assert.equal(isVmmAlive(found.identity), false);
  assert.deepEqual(readdirSync(join(directory, "journal")), []);
  for (const name of ["api.sock", "v"]) assert.equal(existsSync(join(directory, name)), false, name);
});

test("MachineJournal: an owner killed between the spawn and the next write; the VMM is known by its command line", async (t) => {
  const directory = folder(t);
  await kill(
    await owner(
      directory,
      `void launchMachine({ ...options, onSpawn() { console.log("ready"); for (;;); } });`,
    ),
  );
  assert.equal(record(directory).identity, undefined);
  const journal = new MachineJournal(join(directory, "journal"));
  const { live } = await journal.recover();
  const [found] = live;
  assert.ok(found);
  assert.deepEqual(record(directory).identity, found.identity);
  // Nobody adopts it: it is ended by hand, and the next recovery removes what it left.
  signalVmm(found.identity, "SIGKILL");
  while (isVmmAlive(found.identity)) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(await journal.recover(), { live: [], cleaned: ["m-1"], failed: [] });
  assert.equal(existsSync(join(directory, "api.sock")), false);
});

test("MachineJournal: a reused pid, another boot, a broken record: nobody is touched, nothing good is removed", async (t) => {
  const directory = folder(t);
  const journal = new MachineJournal(directory);
  const file = join(directory, "leftover");
  const write = (id: string, more: object): void =>
    writeFileSync(
      join(directory, `${id}.json`),
      JSON.stringify({
        id,
        apiSocket: "/none",
        commandMark: ["--id", id],
        bootId: bootId(),
        leftovers: [{ kind: "file", path: file }],
        ...more,
      }),
    );
  const bystander = spawn("sleep", ["100"], { stdio: "ignore" });
  await once(bystander, "spawn");
  const stat = readFileSync(`/proc/${bystander.pid}/stat`, "latin1");
  const startTime = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  write("reused", { identity: { pid: bystander.pid, startTime: "1" } });
  write("rebooted", { identity: { pid: bystander.pid, startTime }, bootId: "another" });
  // Two that look alike, and one of them is not ours: neither is taken.
  const twins = [1, 2].map(() =>
    spawn(node, ["-e", "setInterval(() => {}, 1000)", "--", "--id", "twin"], { stdio: "ignore" }),
  );
  await Promise.all(twins.map((twin) => once(twin, "spawn")));
  while (findVmms(["--id", "twin"]).length < 2) await new Promise((resolve) => setImmediate(resolve));
  t.after(() => {
    for (const twin of twins) twin.kill("SIGKILL");
  });
  write("twin", {});
  writeFileSync(join(directory, "broken.json"), '{"id":"broken"');
  writeFileSync(join(directory, ".half.json.1.tmp"), "{");
  writeFileSync(file, "");
  const { live, cleaned, failed } = await journal.recover();
  assert.deepEqual(
    [live, cleaned.toSorted(), failed.map(({ id }) => id).toSorted()],
    [[], ["rebooted", "reused"], ["broken", "twin"]],
  );
  assert.deepEqual(readdirSync(directory), ["broken.json", "twin.json"]);
  assert.equal(bystander.exitCode, null);
  bystander.kill("SIGKILL");
  assert.deepEqual(await once(bystander, "exit"), [null, "SIGKILL"]);
});
