/** Host handlers on a host as Debian makes it: cgroup version 2 alone, and AppArmor. */
import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { SecurityProfile_ProfileType } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { GuestDaemon } from "./support/guest-daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";

const { RuntimeDefault, Unconfined, Localhost } = SecurityProfile_ProfileType;
const hostNetwork = { namespace_options: { network: 2, pid: 1 } };
const mib = 1 << 20;

describe("a host with cgroup version 2 and AppArmor", () => {
  const work = mkdtempSync("/tmp/tb-");
  let snapshot: Snapshot;
  let host: GuestDaemon;
  let serial = 0;

  before(async () => {
    snapshot = snapshotHost([]);
    host = await GuestDaemon.start(work);
  });

  after(async () => {
    await host?.stop();
    assertNothingAdded(snapshot);
  });

  type Pod = { readonly id: string; readonly file: string };

  async function runPod(handler: string, privileged = false): Promise<Pod> {
    const file = host.file({
      metadata: { name: `p-${++serial}`, namespace: "test", uid: `p-${serial}`, attempt: 0 },
      linux: { security_context: { ...hostNetwork, privileged } },
    });
    return { id: await host.must(host.crictl("runp", "--runtime", handler, file)), file };
  }

  /** The command that makes and starts a container, whose id is `$id` then. */
  function start(pod: Pod, security: object, more: object = {}, resources: object = {}): string {
    const file = host.file({
      metadata: { name: `c-${++serial}`, attempt: 0 },
      image: { image: host.image },
      command: ["sleep", "1000"],
      linux: { security_context: { ...hostNetwork, ...security }, resources },
      ...more,
    });
    const create = host.crictl("create", "--no-pull", pod.id, file, pod.file);
    return `id=$(${create}) && ${host.crictl("start", "$id")} >/dev/null`;
  }

  /** The command that runs a script in `$id`. */
  const inside = (script: string): string =>
    host.crictl("exec", "-s", "$id", "sh", "-c", `'{ ${script}; } 2>&1; true'`);

  for (const handler of ["crun", "runc"])
    test(`${handler}: a container has its limits, is counted, is changed, and runs out of memory`, async () => {
      const pod = await runPod(handler);
      const limits = { memory_limit_in_bytes: 64 * mib, cpu_quota: 50_000, cpu_period: 100_000 };
      const files = "cd /sys/fs/cgroup && cat memory.max cpu.max && cat /proc/self/cgroup";
      const changed = `${host.crictl("update", "--memory", `${96 * mib}`, "$id")} >/dev/null`;
      const stats = host.crictl("stats", "--seconds", "0", "-o", "json", "--id", "$id");
      const said = await host.must(
        `${start(pod, {}, {}, limits)} && ${inside(files)} && ${stats} && ${changed} && ${inside("cat /sys/fs/cgroup/memory.max")}`,
      );
      assert.match(said, new RegExp(`^${64 * mib}\n50000 100000\n0::/\n`));
      assert.match(said, /"usageCoreNanoSeconds": {\s*"value": "[1-9]\d*"/);
      assert.match(said, /"workingSetBytes": {\s*"value": "[1-9]\d*"/);
      assert.match(said, new RegExp(`\n${96 * mib}$`));
      const hungry = { command: ["sh", "-c", "x=; while :; do x=$x$x.; done"] };
      const ended = `until ${host.crictl("inspect", "$id")} | grep -q OOMKilled; do sleep 0.5; done`;
      const state = `${host.crictl("inspect", "$id")} | grep -E '"(exitCode|reason)"'`;
      const oom = await host.must(
        `${start(pod, {}, hungry, { memory_limit_in_bytes: 16 * mib })} && ${ended} && ${state}`,
      );
      assert.match(oom, /"exitCode": 137/);
      await host.must(`${host.crictl("stopp", pod.id)} && ${host.crictl("rmp", pod.id)}`);
      assert.equal(await host.must("ls /sys/fs/cgroup/tinderbox 2>/dev/null; true"), "");
    });

  test("AppArmor: a container that names no profile is under the runtime's own, and so is what is executed in it", async () => {
    const pod = await runPod("crun");
    const own = "tinderbox-default (enforce)";
    const both = "cat /proc/1/attr/current /proc/self/attr/current";
    assert.equal(await host.must(`${start(pod, {})} && ${inside(both)}`), `${own}\n${own}`);
    const asked = { apparmor: { profile_type: RuntimeDefault } };
    assert.equal(await host.must(`${start(pod, asked)} && ${inside(both)}`), `${own}\n${own}`);
    const none = { apparmor: { profile_type: Unconfined } };
    assert.equal(await host.must(`${start(pod, none)} && ${inside(both)}`), "unconfined\nunconfined");
    const privileged = await runPod("crun", true);
    assert.equal(
      await host.must(`${start(privileged, { privileged: true })} && ${inside(both)}`),
      "unconfined\nunconfined",
    );
  });

  test("AppArmor: the runtime's own keeps from a container with all capabilities what no namespace keeps", async () => {
    const pod = await runPod("runc");
    const all = { capabilities: { add_capabilities: ["ALL"] } };
    const deeds = [
      "mount -t tmpfs none /tmp",
      "echo 4 >/proc/sys/kernel/printk",
      "echo h >/proc/sysrq-trigger",
      "cat /sys/kernel/security/apparmor/profiles",
    ];
    const tried = deeds.map((deed) => `(${deed}) >/dev/null 2>&1 && echo done || echo refused`).join("; ");
    // What is a container's own stays its own.
    const ownSetting = "echo 4096 >/proc/sys/kernel/shmmni && cat /proc/sys/kernel/shmmni";
    assert.equal(
      await host.must(`${start(pod, all)} && ${inside(`${tried}; ${ownSetting}`)}`),
      "refused\nrefused\nrefused\nrefused\n4096",
    );
    const free = { ...all, apparmor: { profile_type: Unconfined } };
    assert.match(await host.must(`${start(pod, free)} && ${inside(tried)}`), /^done\ndone\ndone\n/);
  });

  test("AppArmor: a profile by name is obeyed, and refused where it is not loaded", async () => {
    const pod = await runPod("crun");
    const profile = join(work, "no-writes");
    writeFileSync(
      profile,
      "profile no-writes flags=(attach_disconnected) { file, network, capability, signal, deny /tmp/** w, }",
    );
    await host.must(`apparmor_parser --replace --skip-cache ${profile}`);
    const named = { apparmor: { profile_type: Localhost, localhost_ref: "no-writes" } };
    assert.match(
      await host.must(`${start(pod, named)} && ${inside("touch /tmp/x; touch /x && echo written")}`),
      /^touch: \/tmp\/x: Permission denied\nwritten$/,
    );
    const { code, err } = await host.sh(
      start(pod, { apparmor: { profile_type: Localhost, localhost_ref: "no-such" } }),
    );
    assert.notEqual(code, 0);
    assert.match(err, /InvalidArgument.*apparmor\.localhost_ref: \\*"no-such\\*".*a profile that is loaded/);
  });

  test("AppArmor: a stop's signal passes", async () => {
    const pod = await runPod("crun");
    const waits = { command: ["sh", "-c", "trap 'exit 7' TERM; touch /ready; while :; do sleep 0.1; done"] };
    const ready = `until ${inside("ls /ready")} | grep -qx /ready; do sleep 0.2; done`;
    const stop = `${host.crictl("stop", "--timeout", "60", "$id")} >/dev/null`;
    const said = await host.must(
      `${start(pod, {}, waits)} && ${ready} && ${stop} && ${host.crictl("inspect", "$id")}`,
    );
    assert.match(said, /"exitCode": 7/);
  });
});
