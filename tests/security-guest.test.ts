/** Classes of faults of VM runtimes: a guest whose agent is the attacker's, and machines that are one another's copies. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { TestCri } from "./support/cri-client.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { type HostileMode, hostileModes } from "./support/hostile-guest.ts";
import { diffSnapshots, formatDiff, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

const work = mkdtempSync("/tmp/tb-");
const report = (mode: HostileMode): string => join(work, `${mode}.report`);
let snapshot: Snapshot;
let registry: TestRegistry;
let cni: TestCni;
let daemon: TestDaemon;
let cri: TestCri;
let image = "";

before(async () => {
  registry = await startRegistry({ dir: join(work, "registry") });
  image = `${registry.host}/test/busybox:latest`;
  await pushBusyboxImage(registry.url, "test/busybox", "latest");
  cni = writeBridgeConf(join(work, "cni"));
  const program = join(import.meta.dirname, "support/hostile-guest.ts");
  const runtimes = hostileModes.map((mode) => {
    const vmm = join(work, `vmm-${mode}`);
    writeFileSync(vmm, `#!/bin/sh\nexec ${process.execPath} ${program} ${mode} ${report(mode)} "$@"\n`, {
      mode: 0o755,
    });
    return `[runtimes.${mode}]\ntype = "microvm"\nvmm = "${vmm}"\n`;
  });
  daemon = await startDaemon({
    root: join(work, "root"),
    state: join(work, "run"),
    configToml: `default_runtime = "obedient"\n[cni]\nconf_dir = ${JSON.stringify(cni.confDir)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n${runtimes.join("")}`,
    logLevel: "info",
  });
  cri = new TestCri(daemon.socket, work);
  await cri.pull(image);
  snapshot = snapshotHost([]);
});
after(async () => {
  await cri?.removePods();
  cri?.[Symbol.dispose]();
  await daemon?.stop();
  await registry.stop();
  cni.remove();
  rmSync(work, { recursive: true, force: true });
});

const residentMib = (): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${daemon.child.pid}/status`, "utf8"))?.[1]) / 1024;

test("25, a hostile guest's frames, messages and ids (CVE-2020-2026)", async () => {
  const refusals: Partial<Record<HostileMode, RegExp>> = {
    huge: /agent.*(frame|length|header)/i,
    garbage: /agent|protobuf|varint|premature|invalid/i,
    "no-hello": /began with frame kind 5 instead of Hello/,
    "other-protocol": /speaks protocol 99; 1 is understood/,
  };
  for (const [mode, message] of Object.entries(refusals))
    await assert.rejects(cri.runPod(mode), message, mode);
  // What is refused leaves nothing: no VMM, no namespace, no mount.
  const left = diffSnapshots(snapshot, snapshotHost([])).filter(
    ({ kind, added }) => added.length > 0 && kind !== "network links" && kind !== "files",
  );
  assert.deepEqual(left, [], formatDiff(snapshot, left));

  const config = cri.podConfig();
  const before = residentMib();
  const podId = await cri.runPod("lies", config);
  // It answers for another container than the one it is asked for.
  await assert.rejects(cri.start(podId, config, image), /answer is about another container/);
  const { containers } = await cri.runtime.callUnary("listContainers", {});
  assert.deepEqual(
    containers.filter(({ id }) => !/^[0-9a-f]{64}$/.test(id)),
    [],
  );
  assert.ok(residentMib() < before + 100, `${before} MiB, then ${residentMib()}`);
  assert.equal(existsSync("/tmp/tb-escape"), false);
  // The daemon is well: others' pods are made and it can be told from the outside.
  const { status } = await cri.runtime.callUnary("podSandboxStatus", { podSandboxId: podId });
  assert.equal(status?.metadata?.name, config.metadata?.name);
  await cri.runtime.callUnary("removePodSandbox", { podSandboxId: podId });
  assert.equal(daemon.child.exitCode, null);
});

test("26, machines that share random numbers, clock, name and addresses (no CVE)", async () => {
  const begun = Date.now();
  for (let n = 0; n < 2; n++) await cri.runPod("obedient");
  const told = readFileSync(report("obedient"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  // Who it is comes before anything else that a guest is told: no program of a user's runs before.
  const guests = told
    .filter(({ kind }) => kind === "configureGuest")
    .map(({ value, entropyBytes }) => ({ ...value, entropy: entropyBytes }));
  assert.equal(told[0].kind, "configureGuest");
  assert.equal(guests.length, 2);
  const different = (what: (guest: (typeof guests)[number]) => unknown): void =>
    assert.notDeepEqual(what(guests[0]), what(guests[1]));
  for (const guest of guests) {
    assert.equal(guest.entropy.length, 256);
    const clock = Number(BigInt(guest.unixTimeNs) / 1_000_000n);
    assert.ok(clock >= begun && clock <= Date.now(), `${clock} is not now`);
    assert.match(guest.interfaces[0].mac, /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/);
  }
  different(({ entropy }) => entropy);
  different(({ interfaces }) => interfaces[0].mac);
  different(({ interfaces }) => interfaces[0].addresses);
  different(({ hostname }) => hostname);
});
