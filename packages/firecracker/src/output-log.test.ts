import assert from "node:assert/strict";
import { test } from "node:test";
import { OutputLog } from "./output-log.ts";

test("OutputLog: keeps the last bytes; a reader gets them and all that follows", async () => {
  const log = new OutputLog(8);
  log.push(Buffer.from("0123456789"));
  assert.equal(log.tail(), "23456789");
  assert.equal(log.tail(3), "789");
  const stream = log.stream();
  log.push(Buffer.from("ab"));
  assert.equal(log.tail(), "456789ab");
  log.finish();
  assert.equal((await stream.toArray()).join(""), "23456789ab");
  assert.equal(stream.droppedBytes, 0);
  assert.equal((await log.stream().toArray()).join(""), "456789ab");
});

test("OutputStream: one that is not read holds its limit and counts what it lost; the others lose nothing", async () => {
  const log = new OutputLog(4);
  const slow = log.stream(100);
  const quick = log.stream(1 << 20);
  for (let index = 0; index < 1_000; index++)
    log.push(Buffer.from(`line ${String(index).padStart(4, "0")}\n`));
  log.finish();
  assert.equal((await quick.toArray()).join("").length, 10_000);
  const rest = (await slow.toArray()).join("");
  assert.equal(rest.length + slow.droppedBytes, 10_000);
  assert.ok(rest.length <= 100 && rest.endsWith("line 0999\n"));
  // A destroyed one is fed no more.
  const gone = new OutputLog().stream();
  gone.destroy();
  assert.equal(gone.destroyed, true);
});
