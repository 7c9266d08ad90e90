/** A quiet daemon's memory, with the real kernel: garbage is collected, and pages of Node's program are given back. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";

const module = join(import.meta.dirname, "../packages/tinderbox/src/daemon/spare-memory.ts");

/** Prints JSON: heap and resident program, each in KiB, before and after. */
const script = `
import { readFileSync } from "node:fs";
import { spareMemory } from ${JSON.stringify(module)};
const sizes = () => {
  let program = 0, isProgram = false;
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\\n")) {
    const mapping = /^[0-9a-f]+-[0-9a-f]+ (\\S+) .* (\\/.*)$/.exec(line);
    if (/^[0-9a-f]+-/.test(line)) isProgram = mapping !== null && mapping[2] === process.execPath && mapping[1][1] === "-";
    else if (isProgram) program += Number(/^Rss:\\s+(\\d+) kB$/.exec(line)?.[1] ?? 0);
  }
  return { heap: process.memoryUsage().heapUsed >> 10, program };
};
let garbage = Array.from({ length: 200_000 }, (_, n) => ({ n: String(n) }));
garbage.length = 0;
const before = sizes();
const said = [];
const logger = { debug: (text, fields) => said.push([text, fields]) };
const spare = spareMemory(logger, 20);
const timer = setInterval(() => {
  const after = sizes();
  if (after.program > before.program / 2 && said.length < 2) return;
  clearInterval(timer);
  spare[Symbol.dispose]();
  console.log(JSON.stringify({ before, after, said }));
}, 20);
`;

describe("spareMemory", () => {
  it("collects garbage of a busy moment and has the kernel take the program's pages back", () => {
    const directory = mkdtempSync("/tmp/tb-spare-");
    try {
      // A file of its own: pages that another Node maps too, such as this test's, are left alone.
      const node = join(directory, "node");
      copyFileSync(process.execPath, node);
      const flags = ["--expose-gc", "--disable-warning=ExperimentalWarning", "--input-type=module"];
      const { stdout, stderr } = spawnSync(node, [...flags, "--eval", script], {
        encoding: "utf8",
        timeout: 60_000,
      });
      assert.notEqual(stdout, "", `no end within a minute: ${stderr}`);
      const { before, after, said } = JSON.parse(stdout);
      assert.deepEqual(
        said.map(([text]: [string]) => text),
        ["collected garbage"],
      );
      assert.ok(after.heap < before.heap - 5_000, `heap of ${before.heap} KiB is now ${after.heap}`);
      assert.ok(
        after.program < before.program / 2,
        `${before.program} KiB of the program are now ${after.program}`,
      );
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
