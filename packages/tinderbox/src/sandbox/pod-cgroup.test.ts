import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { makePodCgroup, removePodCgroup } from "./pod-cgroup.ts";

test("pod cgroup: takes processes in every hierarchy, and its removal kills them, also below", {
  skip: process.getuid?.() !== 0,
}, async () => {
  const path = `tinderbox-test/pod-${process.pid}`;
  const directories = await makePodCgroup(path);
  try {
    assert.ok(directories.length > 0);
    const child = spawn("sleep", ["600"]);
    await once(child, "spawn");
    for (const directory of directories) writeFileSync(join(directory, "cgroup.procs"), String(child.pid));
    const first = directories[0] ?? "";
    mkdirSync(join(first, "below"));
    const exited = once(child, "exit");
    await removePodCgroup(path);
    assert.equal((await exited)[1], "SIGKILL");
    for (const directory of directories) assert.equal(existsSync(directory), false, directory);
  } finally {
    await removePodCgroup(path);
  }
  await assert.rejects(makePodCgroup("a/../../b"), { code: "INVALID" });
});
