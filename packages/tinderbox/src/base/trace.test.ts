import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import type { Span } from "./trace.ts";
import { span } from "./trace.ts";

const script = `
import { span } from ${JSON.stringify(join(import.meta.dirname, "trace.ts"))};
await span("rpc", "Outer", async () => {
  await span("run", "first", async () => {});
  await Promise.all([span("run", "second", async () => {}), span("write", "third", () => 3)]);
});
await span("rpc", "Failing", async () => { throw new Error("it fails"); }).catch(() => {});
`;

describe("span", () => {
  it("writes each with the one around it, and what fails too", () => {
    const directory = mkdtempSync("/tmp/tb-trace-");
    try {
      const file = join(directory, "trace.jsonl");
      const flags = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", script];
      const env = { ...process.env, TINDERBOX_TRACE: file };
      assert.equal(spawnSync(process.execPath, flags, { env, encoding: "utf8" }).stderr, "");
      const spans: Span[] = readFileSync(file, "utf8")
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line));
      const byDetail = new Map(spans.map((one) => [one.detail, one]));
      const outer = byDetail.get("Outer");
      assert.deepEqual([...byDetail.keys()].sort(), ["Failing", "Outer", "first", "second", "third"]);
      for (const detail of ["first", "second", "third"])
        assert.equal(byDetail.get(detail)?.parent, outer?.id, detail);
      assert.equal(outer?.parent, 0);
      assert.equal(byDetail.get("Failing")?.parent, 0);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });

  it("without a trace gives what the work gives, promise or not", async () => {
    assert.equal(
      span("run", "", () => 7),
      7,
    );
    await assert.rejects(
      span("run", "", async () => {
        throw new Error("it fails");
      }),
      /it fails/,
    );
  });
});
