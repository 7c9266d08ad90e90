/**
 * firecracker-qemu driven by firecracker-go-sdk, a client that nobody here wrote: the tests are Go's own, in clients-go-sdk/.
 * By hand against another VMM: FIRECRACKER_BIN=... GUEST_KERNEL=... node --test tests/firecracker-qemu-go-sdk.test.ts
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { writeNewcArchive } from "../packages/tinderbox/src/guest/newc-archive.ts";
import { diffSnapshots, formatDiff, type Snapshot, snapshotHost } from "./support/leak-report.ts";

const programs = join(import.meta.dirname, "clients-go-sdk/bin");
const guest = join(import.meta.dirname, "../.cache/guest");

/** The tests that were compiled in: the answer of Go's own test runner. */
function testNames(): readonly string[] {
  const { stdout, stderr, status } = spawnSync(join(programs, "sdk.test"), ["-test.list", "."], {
    encoding: "utf8",
  });
  assert.equal(status, 0, stderr);
  return stdout.split("\n").filter((name) => name.startsWith("Test"));
}

describe("firecracker-go-sdk", () => {
  const work = mkdtempSync("/tmp/tb-go-sdk-");
  const initrd = join(work, "initrd.img");
  let snapshot: Snapshot;
  before(() => {
    const init = {
      kind: "file",
      path: "init",
      mode: 0o755,
      content: readFileSync(join(programs, "init")),
    } as const;
    // The kernel unpacks one archive over the other: the agent's modules, and another /init.
    writeFileSync(
      initrd,
      Buffer.concat([readFileSync(join(guest, "initramfs.img")), writeNewcArchive([init])]),
    );
    snapshot = snapshotHost([]);
  });
  after(() => rmSync(work, { recursive: true, force: true }));

  for (const name of testNames())
    test(name, async (t) => {
      const child = spawn(join(programs, "sdk.test"), ["-test.v", "-test.run", `^${name}$`], {
        stdio: ["ignore", "pipe", "pipe"],
        env: {
          FIRECRACKER_BIN: join(import.meta.dirname, "../bin/firecracker-qemu"),
          GUEST_KERNEL: join(guest, "vmlinux"),
          ...process.env,
          GUEST_INITRD: initrd,
          TMPDIR: work,
        },
      });
      let said = "";
      for (const stream of [child.stdout, child.stderr])
        stream.on("data", (chunk: Buffer) => {
          said += chunk.toString("utf8");
        });
      const [code] = await once(child, "close");
      for (const [line] of said.matchAll(/^ *--- .*$/gm)) t.diagnostic(line.trim());
      assert.equal(code, 0, said);
      assert.doesNotMatch(said, /^ *--- SKIP/m);
    });

  test("nothing is left of all that", () => {
    const differences = diffSnapshots(snapshot, snapshotHost([]));
    for (const { kind, added } of differences)
      assert.deepEqual(added, [], `${kind}\n${formatDiff(snapshot, differences)}`);
  });
});
