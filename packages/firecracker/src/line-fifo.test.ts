import assert from "node:assert/strict";
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { LineSplitter, openRecordFifo } from "./line-fifo.ts";
import { parseLogLine } from "./log-lines.ts";
import { openMetricsFifo, parseMetricsLine } from "./metrics.ts";

test("LineSplitter: the same lines however the bytes are cut; too long ones are left out", () => {
  fc.assert(
    fc.property(fc.array(fc.stringMatching(/^[a-zé]{0,12}$/)), fc.array(fc.nat(20)), (lines, cuts) => {
      const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(""));
      const splitter = new LineSplitter(1 << 20);
      const found: string[] = [];
      let from = 0;
      for (const cut of [...cuts, bytes.length]) {
        found.push(...splitter.push(bytes.subarray(from, from + cut)));
        from += cut;
      }
      assert.deepEqual(found, lines);
    }),
  );
  const splitter = new LineSplitter(4);
  assert.deepEqual(
    [
      ...splitter.push(Buffer.from("1234\n12345\n")),
      ...splitter.push(Buffer.from("123456789")),
      ...splitter.push(Buffer.from("0\nok\n")),
    ],
    ["1234", "ok"],
  );
  assert.equal(splitter.skipped, 2);
});

test("openMetricsFifo: records until the writer's end; unread ones are bounded; the FIFO is removed", async (t) => {
  const directory = mkdtempSync("/tmp/fc-fifo-");
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "m");
  const metrics = await openMetricsFifo(path, 2);
  await assert.rejects(openMetricsFifo(path), { code: "FC_LAUNCH" });
  const waiting = metrics.next();
  const abort = AbortSignal.abort(new Error("enough"));
  await assert.rejects(metrics.next({ signal: abort }), /enough/);
  const writer = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  const line = (ms: number): string => `{"utc_timestamp_ms":${ms},"block_a":{"read_bytes":7}}\n`;
  writeSync(writer, line(1).slice(0, 10));
  writeSync(writer, line(1).slice(10));
  const first = await waiting;
  assert.equal(first?.utc_timestamp_ms, 1);
  assert.equal(first?.["block_a"]?.read_bytes, 7);
  writeSync(writer, `not json\n{}\n${line(2)}${line(3)}${line(4)}`);
  closeSync(writer);
  const rest: number[] = [];
  // Unread: 2, 3 and 4 of which the last two are kept, unless the loop below was quicker; the end comes either way.
  for await (const record of metrics) rest.push(record.utc_timestamp_ms);
  assert.deepEqual(rest.slice(-2), [3, 4]);
  assert.equal(metrics.dropped + rest.length, 5);
  assert.equal(await metrics.next(), undefined);
  await metrics[Symbol.asyncDispose]();
  assert.equal(existsSync(path), false);
});

test("openRecordFifo: 100 of them leave no descriptor", async (t) => {
  const directory = mkdtempSync("/tmp/fc-fifo-");
  t.after(() => rmSync(directory, { recursive: true }));
  const before = readdirSync("/proc/self/fd").length;
  for (let index = 0; index < 100; index++) {
    await using fifo = await openRecordFifo(join(directory, "f"), (line) => line, 10);
    assert.ok(fifo.path);
  }
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(readdirSync("/proc/self/fd").length <= before + 2);
});

test("parseLogLine, parseMetricsLine: Firecracker's lines, and others", () => {
  assert.deepEqual(parseLogLine("2026-11-24T20:49:00.728673062 [m1:fc_api:INFO:src/a.rs:192] Done: [x] y"), {
    time: "2026-11-24T20:49:00.728673062",
    instanceId: "m1",
    thread: "fc_api",
    level: "INFO",
    origin: "src/a.rs:192",
    message: "Done: [x] y",
  });
  assert.deepEqual(parseLogLine("2026-11-24T20:49:00.7 [anonymous-instance:main] Running"), {
    time: "2026-11-24T20:49:00.7",
    instanceId: "anonymous-instance",
    thread: "main",
    level: undefined,
    origin: undefined,
    message: "Running",
  });
  assert.equal(parseLogLine("2026-11-24T20:49:00.7 [m:main:ERROR] bad")?.level, "ERROR");
  for (const line of ["", "hello", "[    0.1] kernel"]) assert.equal(parseLogLine(line), undefined);
  for (const line of ["", "{", "null", "[]", '{"utc_timestamp_ms":"1"}'])
    assert.equal(parseMetricsLine(line), undefined);
});
