/**
 * critest against tinderboxd on one runtime handler:
 *   node tests/conformance/run.ts HANDLER [--websocket] [--focus REGEX] [--nodes N]
 * Every spec passes but those of the handler's list of exceptions; one of those that passes is an error as well.
 */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { writeBridgeConf } from "../support/cni.ts";
import { crictl } from "../support/crictl.ts";
import { startDaemon } from "../support/daemon.ts";
import { diffSnapshots, firewall, formatDiff, isRuleOfPod, snapshotHost } from "../support/leak-report.ts";
import { startRegistry } from "../support/test-registry.ts";
import { pushConformanceImages } from "./images.ts";
import { judge, parseExceptions, parseJunit } from "./judge.ts";

const here = import.meta.dirname;
const clients = join(here, "../clients/bin");
/** Hosts whose images critest asks for: all come from the local registry. */
const mirrored = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io", "public.ecr.aws"];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    websocket: { type: "boolean", default: false },
    focus: { type: "string", default: "" },
    nodes: { type: "string", default: "2" },
  },
});
const handler = positionals[0] ?? "crun";
const place = handler === "firecracker" ? "microvm" : "host";
const reports = join(here, "../../.cache/conformance/reports");

async function critest(socket: string, junit: string, output: string): Promise<void> {
  const endpoint = `unix://${socket}`;
  const websocket = ["exec", "attach", "portforward"].map((kind) => `-websocket-${kind}`);
  const args = [
    `-runtime-endpoint=${endpoint}`,
    `-image-endpoint=${endpoint}`,
    `-runtime-handler=${handler}`,
    `-parallel=${values.nodes}`,
    `-ginkgo.junit-report=${junit}`,
    "-ginkgo.timeout=50m",
    "-ginkgo.no-color",
    ...(values.focus === "" ? [] : [`-ginkgo.focus=${values.focus}`]),
    ...(values.websocket ? websocket : []),
  ];
  // A config file of the host's would name another runtime; ginkgo is how critest runs specs side by side.
  const env = { ...process.env, PATH: `${clients}:${process.env["PATH"] ?? ""}` };
  const fd = openSync(output, "w");
  const child = spawn(join(clients, "critest"), [...args, "-config=/nonexistent"], {
    env,
    stdio: ["ignore", fd, fd],
  });
  closeSync(fd);
  // Its status is not asked: specs on the list of exceptions fail it. What counts is the report.
  await once(child, "exit");
}

async function main(): Promise<number> {
  const work = mkdtempSync("/tmp/tb-conf-");
  chmodSync(work, 0o711);
  const before = snapshotHost([]);
  const junit = join(reports, `${handler}${values.websocket ? "-websocket" : ""}.xml`);
  mkdirSync(reports, { recursive: true });
  rmSync(junit, { force: true });
  const registry = await startRegistry({ dir: join(work, "registry") });
  const cni = writeBridgeConf(join(work, "cni"), [
    { type: "portmap", capabilities: { portMappings: true }, snat: true },
  ]);
  await pushConformanceImages(registry.url);
  const daemon = await startDaemon({
    root: join(work, "root"),
    state: join(work, "run"),
    configToml: [
      cni.toml,
      ...mirrored.map((host) => `[registries."${host}"]\nmirrors = ["${registry.url}"]`),
    ].join("\n"),
  });
  const output = join(reports, `${handler}.log`);
  console.log(`${handler}: critest runs, for a minute or some; what it says is in ${output}`);
  const started = performance.now();
  await critest(daemon.socket, junit, output);
  const seconds = Math.round((performance.now() - started) / 1000);
  // A spec that fails may leave its pod; what must be gone is what the daemon was asked to remove.
  crictl(daemon.socket, "rmp", "--all", "--force");
  await daemon.stop();
  writeFileSync(join(reports, `${handler}-daemon.log`), daemon.said());
  await registry.stop();
  cni.remove();
  rmSync(work, { recursive: true, force: true });
  if (!existsSync(junit)) {
    console.error(`no report ${junit}: critest did not get far`);
    return 1;
  }
  const results = parseJunit(readFileSync(junit, "utf8"));
  const list = parseExceptions(readFileSync(join(here, `${place}-exceptions.txt`), "utf8"));
  const verdict = judge(results, list, values.focus === "");
  console.log(`${handler}: ${verdict.summary} in ${seconds} s`);
  for (const line of verdict.faults) console.log(`  ${line}`);
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
  if (left.length > 0) console.log(`left behind:\n${formatDiff(before, left)}`);
  return verdict.faults.length === 0 && left.length === 0 ? 0 : 1;
}

process.exit(await main());
