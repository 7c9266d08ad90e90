/** Plugins that fail, talk too much, answer nonsense, or do not end. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { runPlugin } from "./cni-plugin.ts";

const work = mkdtempSync(join(tmpdir(), "tb-plugin-"));
after(() => rmSync(work, { recursive: true, force: true }));

function run(script: string, timeoutMs = 20_000): Promise<unknown> {
  writeFileSync(join(work, "plugin"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return runPlugin({
    command: "ADD",
    type: "plugin",
    binDirs: [join(work, "none"), work],
    input: { a: 1 },
    env: {},
    timeoutMs,
  });
}

test("its answer is what it says, and it is told command, path and configuration", async () => {
  assert.deepEqual(await run("cat"), { a: 1 });
  assert.equal(await run("cat >/dev/null"), undefined);
  assert.equal(await run('echo "\\"$CNI_COMMAND $CNI_PATH\\""'), `ADD ${join(work, "none")}:${work}`);
});

test("a failure tells the plugin's code, message and details, or what else there is", async () => {
  for (const [script, message] of [
    [
      `echo '{"code":7,"msg":"bad network","details":"no subnet"}'; exit 1`,
      "CNI ADD by plugin: code 7: bad network: no subnet",
    ],
    [`echo '{"msg":"just words"}'; exit 2`, "CNI ADD by plugin: just words"],
    [`echo '{"code":"7","msg":["x"]}'; exit 3`, "CNI ADD by plugin: exit status 3"],
    ["echo oops >&2; exit 4", "CNI ADD by plugin: exit status 4: oops"],
    ["printf 'not json'; exit 5", "CNI ADD by plugin: exit status 5"],
    [
      `printf '{"code":1,"msg":"two\\\\nlines\\\\u001b[31m"}'; exit 1`,
      "CNI ADD by plugin: code 1: two lines [31m",
    ],
    ["echo nonsense", "CNI ADD by plugin: its answer is not JSON"],
  ] as const)
    await assert.rejects(run(script), { code: "CNI", message }, script);
  await assert.rejects(
    run(`printf '{"msg":"%0100000d"}' 1; exit 1`),
    ({ message }: Error) => message.length < 2100,
  );
});

test("an answer has its bound", async () => {
  await assert.rejects(run("head -c 50000000 /dev/zero"), {
    code: "CNI",
    message: /its answer has 1048576 bytes or more/,
  });
});

test("one that does not end is killed, with what it has started", async () => {
  const pidFile = join(work, "pid");
  await assert.rejects(run(`sleep 1000 & echo $! > ${pidFile}; wait`, 500), {
    code: "TIMEOUT",
    message: "CNI ADD by plugin: no end after 500 ms; it was killed",
  });
  const pid = readFileSync(pidFile, "utf8").trim();
  const isGone = !existsSync(`/proc/${pid}`) || / Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  assert.ok(isGone, `the plugin's child ${pid} is still there`);
});
