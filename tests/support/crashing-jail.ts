/**
 * A program of its own for sdk-jail.test.ts: makes a jail with everything in it, and kills itself with SIGKILL right
 * after the journal was written for the N-th time, or at its end.   crashing-jail.ts OPTIONS.json JOURNAL FILES.json N
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { StageOptions } from "../../packages/firecracker/src/jailer/jail.ts";
import type { JailerOptions } from "../../packages/firecracker/src/jailer/jailer-options.ts";
import { makeJail } from "../../packages/firecracker/src/jailer/make-jail.ts";
import { planJail } from "../../packages/firecracker/src/jailer/plan-jail.ts";

const [optionsPath = "", journal = "", filesPath = "", last = ""] = process.argv.slice(2);
// Both were written by the test that starts this program.
const options = JSON.parse(readFileSync(optionsPath, "utf8")) as JailerOptions;
const files = JSON.parse(readFileSync(filesPath, "utf8")) as [string, StageOptions][];

let written = 0;
const jail = await makeJail((await planJail(options)).record, async (record) => {
  writeFileSync(`${journal}.new`, JSON.stringify(record));
  renameSync(`${journal}.new`, journal);
  written += 1;
  if (written === Number(last)) process.kill(process.pid, "SIGKILL");
});
for (const [path, stage] of files) await jail.stage(path, stage);
const busybox = await jail.stage("/bin/busybox", { access: "ro", as: "/busybox" });
const inside = spawn("chroot", [jail.record.root, busybox, "sh", "-c", "echo up; exec /busybox sleep 1000"], {
  stdio: ["ignore", "pipe", "ignore"],
  detached: true,
});
for (const cgroup of jail.record.cgroups) writeFileSync(join(cgroup, "cgroup.procs"), String(inside.pid));
await once(inside.stdout, "data");
process.kill(process.pid, "SIGKILL");
