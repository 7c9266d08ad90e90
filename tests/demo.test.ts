/** The README's first command, as a test: both of the talk's demos on both handlers, and its own leak report. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";

const root = join(import.meta.dirname, "..");

test("demo: runs to its end, on two different kernels, and leaves nothing", () => {
  const demo = spawnSync(process.execPath, [join(root, "tools/demo.ts")], {
    encoding: "utf8",
    timeout: 400_000,
  });
  assert.equal(demo.status, 0, `${demo.stdout}\n${demo.stderr}`);
  const kernels = /kernels: firecracker (\S+), crun (\S+)/.exec(demo.stdout);
  assert.notEqual(kernels?.[1], kernels?.[2]);
  assert.match(demo.stdout, /nothing is left of it/);
});
