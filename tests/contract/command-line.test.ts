// The command line: what it prints, and the statuses it ends with.
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { isProgram } from "./harness/binary.ts";
import { get, runRows } from "./harness/rows.ts";
import { spawnProgram, Vmm } from "./harness/vmm.ts";

const directory = mkdtempSync("/tmp/contract-cli-");
before(() => {
  writeFileSync(join(directory, "file"), "no JSON");
  writeFileSync(join(directory, "metadata.json"), '{"a":{"b":1}}');
  writeFileSync(join(directory, "large.json"), JSON.stringify("x".repeat(60_000)));
});
after(() => rmSync(directory, { recursive: true, force: true }));

type Result = { readonly status: number | string | null; readonly out: string; readonly err: string };

/** Runs it to its end. */
async function run(args: readonly string[]): Promise<Result> {
  const child = spawnProgram(args, directory);
  let [out, err] = ["", ""];
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    err += text;
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), 30_000);
  const [code, signal] = await once(child, "close");
  clearTimeout(timer);
  return { status: code ?? signal, out, err };
}

const ends = (
  name: string,
  cases: readonly (readonly [readonly string[], number | string, RegExp])[],
): void =>
  // The runner waits for it.
  void test(`command line: ${name}`, async () => {
    for (const [args, status, says] of cases) {
      const result = await run(args);
      const what = `${args.join(" ")}: ${JSON.stringify(result)}`;
      assert.equal(result.status, status, what);
      assert.match(result.out + result.err, says, what);
    }
  });

test("command line: versions and help", async () => {
  const { status, out } = await run(["--version"]);
  assert.equal(status, 0);
  assert.match(out, /^Firecracker v1\.17\.0(-dev)?\n/);
  assert.deepEqual((await run(["--nope", "--version", "x"])).out.split("\n")[0], out.split("\n")[0]);
  assert.match((await run(["--snapshot-version"])).out, /^v11\.0\.0\n/);
  for (const flag of ["--help", "-h"]) {
    const help = await run([flag]);
    assert.equal(help.status, 0);
    for (const name of [
      ...["api-sock", "id", "config-file", "no-api", "metadata", "log-path", "level", "module", "show-level"],
      ...["show-log-origin", "metrics-path", "boot-timer", "http-api-max-payload-size", "mmds-size-limit"],
      ...["version", "snapshot-version", "describe-snapshot", "start-time-us", "start-time-cpu-us"],
      ...["parent-cpu-time-us", "enable-pci", "seccomp-filter", "no-seccomp"],
    ])
      assert.match(help.out, new RegExp(`^ +--${name}( |$)`, "m"));
  }
});

ends("what is no command line ends with 153, and says where", [
  [["--nope"], 153, /nope/],
  [["nope"], 153, /nope/],
  [["--id", "a", "--id", "b"], 153, /id.*more than once/],
  [["--id"], 153, /id.*requires a value/],
  [["--id", "--level"], 153, /id.*requires a value/],
  [["--no-api"], 153, /config-file/],
  [["--show-level", "x"], 153, /x/],
]);

ends("a name or number that makes no sense aborts it", [
  [["--id", "a b"], "SIGABRT", /[Ii]nvalid instance ID/],
  [["--id", "a_b"], "SIGABRT", /[Ii]nvalid instance ID/],
  [["--id", ""], "SIGABRT", /[Ii]nvalid instance ID/],
  [["--id", "x".repeat(65)], "SIGABRT", /[Ii]nvalid instance ID/],
  [["--http-api-max-payload-size", "x"], "SIGABRT", /http-api-max-payload-size/],
  [["--mmds-size-limit", "-1"], "SIGABRT", /mmds-size-limit/],
  [["--start-time-us", "x"], "SIGABRT", /start-time-us/],
  [["--config-file", "/nope"], "SIGABRT", /configuration file/],
  [["--metadata", "/nope"], "SIGABRT", /mmds content file/],
]);

ends("what cannot be used ends with 1, a wrong level with 152", [
  [["--level", "Loud"], 152, /Loud/],
  [["--log-path", "/nope/log"], 1, /No such file or directory/],
  [["--metrics-path", "/nope/metrics"], 1, /No such file or directory/],
  [["--api-sock", join(directory, "file")], 1, /already used/],
  [["--describe-snapshot", "/nope"], 1, /nope|No such file/],
  [["--describe-snapshot", join(directory, "file")], 1, /[Ss]napshot/],
  [["--api-sock", join(directory, "s"), "--metadata", join(directory, "large.json")], 1, /MMDS|mmds/],
]);

ends("metadata that is no JSON aborts it", [
  [["--api-sock", join(directory, "t"), "--metadata", join(directory, "file")], "SIGABRT", /not valid json/i],
]);

test("command line: what is behind -- is nobody's, and PCI is refused where there is none", async () => {
  await using vmm = await Vmm.start(["--", "--nope"]);
  await runRows(vmm, [get("/", { id: "anonymous-instance" })]);
  if (!isProgram("firecracker-qemu")) return;
  const { status, err } = await run(["--enable-pci"]);
  assert.equal(status, 153);
  assert.match(err, /not supported by firecracker-qemu/);
});

test("command line: log, metrics and metadata are there from the start", async () => {
  const [log, metrics] = [join(directory, "log"), join(directory, "metrics")];
  const args = [
    "--id",
    "an-id",
    "--log-path",
    log,
    "--level",
    "INFO",
    "--show-level",
    "--metrics-path",
    metrics,
  ];
  const more = [
    "--metadata",
    join(directory, "metadata.json"),
    "--start-time-us",
    "1",
    "--start-time-cpu-us",
    "1",
  ];
  await using vmm = await Vmm.start([...args, ...more, "--parent-cpu-time-us", "1"]);
  await runRows(vmm, [
    get("/", { id: "an-id" }),
    get("/mmds", { a: { b: 1 } }),
    { send: "PUT /metrics", body: { metrics_path: metrics }, status: 400, says: /reinitialization/i },
  ]);
  assert.ok(existsSync(metrics));
  assert.match(readFileSync(log, "utf8"), /\[an-id:main:INFO\] Running Firecracker v1\.17\.0/);
  assert.match(readFileSync(log, "utf8"), /\[an-id:fc_api:INFO\] API server started/);
});

test("command line: SIGHUP ends it with 156, SIGTERM by SIGTERM", async () => {
  await using hung = await Vmm.start();
  hung.child.kill("SIGHUP");
  assert.deepEqual(await hung.end(), { exitCode: 156, signal: null });
  await using terminated = await Vmm.start();
  terminated.child.kill("SIGTERM");
  assert.deepEqual(await terminated.end(), { exitCode: null, signal: "SIGTERM" });
});
