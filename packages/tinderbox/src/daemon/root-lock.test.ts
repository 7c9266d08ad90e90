import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { lockRoot } from "./root-lock.ts";

test("lockRoot: another process is told who has it, and gets it afterwards", async () => {
  const root = mkdtempSync(join(tmpdir(), "tinderbox-lock-"));
  const program = `import { lockRoot } from ${JSON.stringify(join(import.meta.dirname, "root-lock.ts"))};
    try { lockRoot(process.argv[1]); console.log("got it") } catch (error) { console.log(error.code, error.message) }`;
  const other = async () =>
    (await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program, root])).stdout;
  try {
    const held = lockRoot(root);
    assert.match(await other(), new RegExp(`^WRONG_STATE .*pid ${process.pid}\\n`));
    held[Symbol.dispose]();
    assert.equal(await other(), "got it\n");
  } finally {
    rmSync(root, { recursive: true });
  }
});
