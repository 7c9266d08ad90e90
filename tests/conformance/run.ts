/**
 * critest against tinderboxd, one run after the other on one daemon:
 *   node tests/conformance/run.ts [RUN...] [--focus REGEX] [--nodes N] [--reports DIRECTORY] [--host debian]
 * `--host debian` says that it runs there: debian-host.ts.
 * RUN is a name of runs.ts; without one, what `make test` runs. Every spec passes but those of the handler's list of
 * exceptions; one of those that passes is an error as well, and so is one that vanished.
 */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { diffSnapshots, firewall, formatDiff, isRuleOfPod, snapshotHost } from "../support/leak-report.ts";
import { difference, type Exceptions, judge, parseExceptions, parseJunit, type SpecResult } from "./judge.ts";
import { type Run, runs, specsOf, usual } from "./runs.ts";
import { Runtimes } from "./runtimes.ts";

const here = import.meta.dirname;
const clients = { "1.36": join(here, "../clients/bin"), "1.37": join(here, "../clients-critest/bin") };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    focus: { type: "string", default: "" },
    // Most specs wait most of the time, those of microVMs do not.
    nodes: { type: "string", default: "3" },
    host: { type: "string", default: "this" },
    reports: { type: "string", default: join(here, "../../.cache/conformance/reports") },
  },
});
const { reports } = values;

async function critest(run: Run, socket: string, junit: string, output: string): Promise<void> {
  const endpoint = `unix://${socket}`;
  const focus = values.focus === "" ? run.focus : values.focus;
  const args = [
    `-runtime-endpoint=${endpoint}`,
    `-image-endpoint=${endpoint}`,
    `-runtime-handler=${run.handler === "containerd" ? "runc" : run.handler}`,
    `-parallel=${values.nodes}`,
    `-ginkgo.junit-report=${junit}`,
    "-ginkgo.timeout=50m",
    "-ginkgo.no-color",
    ...(focus === undefined ? [] : [`-ginkgo.focus=${focus}`]),
    ...(run.websocket ? ["exec", "attach", "portforward"].map((kind) => `-websocket-${kind}`) : []),
  ];
  // A config file of the host's would name another runtime; ginkgo is how critest runs specs side by side.
  const bin = clients[run.critest];
  const env = { ...process.env, PATH: `${bin}:${process.env["PATH"] ?? ""}` };
  const fd = openSync(output, "w");
  const child = spawn(join(bin, "critest"), [...args, "-config=/nonexistent"], {
    env,
    stdio: ["ignore", fd, fd],
  });
  closeSync(fd);
  // Its status is not asked: specs on the list of exceptions fail it. What counts is the report.
  await once(child, "exit");
}

function exceptionsOf({ handler, critest: version }: Run): Exceptions {
  const files = [
    handler === "firecracker" ? "microvm" : "host",
    ...(version === "1.36" ? [] : [version]),
    ...(values.host === "this" ? [] : [values.host]),
  ];
  return new Map(
    files.flatMap((name) => [...parseExceptions(readFileSync(join(here, `${name}-exceptions.txt`), "utf8"))]),
  );
}

function readReport(name: string): readonly SpecResult[] | undefined {
  const path = join(reports, `${name}.xml`);
  return existsSync(path) ? parseJunit(readFileSync(path, "utf8")) : undefined;
}

/** The control has no list: what it says is held against our own last reports. */
function compare(name: string, run: Run, control: readonly SpecResult[]): void {
  const passed = control.filter(({ status }) => status === "passed").length;
  console.log(`${name}: ${control.length} specs: ${passed} passed`);
  for (const handler of ["crun", "runc", "firecracker"]) {
    const ours = readReport(run.critest === "1.36" ? handler : `${handler}-${run.critest}`);
    if (!ours) continue;
    console.log(
      `  passes on containerd, not on ${handler}: ${difference(control, ours).join("; ") || "none"}`,
    );
    console.log(
      `  passes on ${handler}, not on containerd: ${difference(ours, control).join("; ") || "none"}`,
    );
  }
}

/** Whether all is as it should be. */
async function perform(name: string, run: Run, socket: string): Promise<boolean> {
  const junit = join(reports, `${name}.xml`);
  const output = join(reports, `${name}.log`);
  rmSync(junit, { force: true });
  console.log(`${name}: critest ${run.critest} runs, for a minute or some; what it says is in ${output}`);
  const started = performance.now();
  await critest(run, socket, junit, output);
  const seconds = Math.round((performance.now() - started) / 1000);
  const results = readReport(name);
  if (!results) {
    console.error(`no report ${junit}: critest did not get far`);
    return false;
  }
  if (run.handler === "containerd") {
    compare(name, run, results);
    return true;
  }
  const expected =
    values.focus === ""
      ? { specs: specsOf[run.critest], ...(run.passes === undefined ? {} : { passes: run.passes }) }
      : undefined;
  const { summary, faults } = judge(results, exceptionsOf(run), expected);
  console.log(`${name}: ${summary} in ${seconds} s`);
  for (const line of faults) console.log(`  ${line}`);
  return faults.length === 0;
}

async function main(): Promise<number> {
  const names = positionals.length === 0 ? usual : positionals;
  const chosen = names.map((name) => {
    const run = runs[name];
    if (run) return { name, run };
    console.error(`no run ${JSON.stringify(name)}; one of: ${Object.keys(runs).join(", ")}`);
    return process.exit(2);
  });
  mkdirSync(reports, { recursive: true });
  const work = mkdtempSync("/tmp/tb-conf-");
  const before = snapshotHost([]);
  const runtimes = await Runtimes.prepare(work);
  let isGood = true;
  for (const { name, run } of chosen) {
    const socket = await runtimes.socketFor(run.handler);
    isGood = (await perform(name, run, socket)) && isGood;
    runtimes.removePods();
  }
  await runtimes.stop(join(reports, "daemon.log"));
  rmSync(work, { recursive: true, force: true });
  // Loop devices are the whole machine's: only one with a file of ours is our business.
  const loops = execFileSync("losetup", ["-a"], { encoding: "utf8" }).split("\n");
  const isOurs = (kind: string, line: string): boolean => {
    if (kind === firewall) return isRuleOfPod(line);
    if (kind === "loop devices")
      return loops.some((loop) => loop.startsWith(`${line}:`) && loop.includes(`(${work}/`));
    // critest itself leaves mounts there when a spec of mount propagation fails.
    return !line.startsWith("/tmp/test");
  };
  const left = diffSnapshots(before, snapshotHost([]))
    .map((one) => ({ ...one, added: one.added.filter((line) => isOurs(one.kind, line)) }))
    .filter(({ added }) => added.length > 0);
  // What the control leaves is no fault of ours.
  if (chosen.some(({ run }) => run.handler === "containerd")) return isGood ? 0 : 1;
  if (left.length > 0) console.log(`left behind:\n${formatDiff(before, left)}`);
  return isGood && left.length === 0 ? 0 : 1;
}

process.exit(await main());
