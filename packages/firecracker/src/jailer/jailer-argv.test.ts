import assert from "node:assert/strict";
import { test } from "node:test";
import { type CgroupPlan, parseHostCgroups, planCgroups } from "./host-cgroups.ts";
import { jailerArgv } from "./jailer-argv.ts";
import { FirecrackerJailerError } from "./jailer-error.ts";
import { type CgroupSetting, checkJailerOptions, type JailerOptions } from "./jailer-options.ts";

const least: JailerOptions = {
  jailerBinary: "/usr/bin/jailer",
  execFile: "/usr/bin/firecracker",
  id: "vm-1",
  uid: 4000,
  gid: 4001,
};
const head = ["--id", "vm-1", "--exec-file", "/usr/bin/firecracker", "--uid", "4000", "--gid", "4001"];
const base = ["--chroot-base-dir", "/srv/jailer"];
const v2: CgroupPlan = { version: 2, directories: ["/sys/fs/cgroup/firecracker/vm-1"], parents: [] };

test("jailerArgv: the command line for each option", () => {
  const rows: readonly [Partial<JailerOptions>, CgroupPlan, readonly string[]][] = [
    [{}, undefined, [...head, ...base]],
    [{ chrootBaseDir: "/j" }, undefined, [...head, "--chroot-base-dir", "/j"]],
    [{ netns: "/run/netns/a" }, undefined, [...head, ...base, "--netns", "/run/netns/a"]],
    [{ daemonize: true, newPidNs: true }, undefined, [...head, ...base, "--daemonize", "--new-pid-ns"]],
    [{ daemonize: false, newPidNs: false }, undefined, [...head, ...base]],
    [
      { cgroups: ["cpu.max=50000 100000", "pids.max=64"], parentCgroup: "vms/small" },
      v2,
      [
        ...[...head, ...base, "--cgroup-version", "2", "--cgroup", "cpu.max=50000 100000"],
        ...["--cgroup", "pids.max=64", "--parent-cgroup", "vms/small"],
      ],
    ],
    [
      { cgroups: ["cpu.shares=10"] },
      { version: 1, directories: [], parents: [] },
      [...head, ...base, "--cgroup-version", "1", "--cgroup", "cpu.shares=10"],
    ],
    [
      { resourceLimits: { fsizeBytes: 1 << 30, noFile: 256 } },
      undefined,
      [...head, ...base, "--resource-limit", "fsize=1073741824", "--resource-limit", "no-file=256"],
    ],
    [{ resourceLimits: { noFile: 0 } }, undefined, [...head, ...base, "--resource-limit", "no-file=0"]],
    [
      { firecrackerArgs: ["--api-sock", "/api.sock", "--enable-pci"] },
      undefined,
      [...head, ...base, "--", "--api-sock", "/api.sock", "--enable-pci"],
    ],
  ];
  for (const [change, cgroups, wanted] of rows)
    assert.deepEqual(jailerArgv({ ...least, ...change }, cgroups), wanted, JSON.stringify(change));
});

test("checkJailerOptions: accepts what the jailer accepts", () => {
  const rows: readonly Partial<JailerOptions>[] = [
    {},
    { id: "a".repeat(64) },
    { id: "-" },
    { id: "é1" },
    { uid: 0, gid: 0 },
    { uid: 0xffff_fffe },
    { cgroups: ["cpuset.cpus=0-1", "memory.max=1G", "hugetlb.2MB.max=0"] },
    { parentCgroup: "a/b" },
    { resourceLimits: { fsizeBytes: 0 } },
  ];
  for (const change of rows) checkJailerOptions({ ...least, ...change });
});

test("checkJailerOptions: refuses what the jailer refuses, and names the field", () => {
  // As an untyped caller would pass it.
  const cgroup = (text: string): CgroupSetting => text as CgroupSetting;
  const rows: readonly [Partial<JailerOptions>, string][] = [
    [{ jailerBinary: "" }, "jailerBinary"],
    [{ execFile: "a\0b" }, "execFile"],
    [{ id: "" }, "id"],
    [{ id: "a".repeat(65) }, "id"],
    [{ id: "é".repeat(33) }, "id"],
    [{ id: "a_b" }, "id"],
    [{ id: "a/b" }, "id"],
    [{ id: ".." }, "id"],
    [{ id: "--a" }, "id"],
    [{ id: "-h" }, "id"],
    [{ uid: -1 }, "uid"],
    [{ uid: 1.5 }, "uid"],
    [{ uid: Number.NaN }, "uid"],
    [{ gid: 0xffff_ffff }, "gid"],
    [{ chrootBaseDir: "" }, "chrootBaseDir"],
    [{ netns: "--x" }, "netns"],
    [{ cgroups: ["cpu.max=1", cgroup("cpu.max")] }, "cgroups[1]"],
    [{ cgroups: [cgroup("cpu.max=")] }, "cgroups[0]"],
    [{ cgroups: [cgroup("a.b=c=d")] }, "cgroups[0]"],
    [{ cgroups: [cgroup("cpu=1")] }, "cgroups[0]"],
    [{ cgroups: [cgroup("../cpu.max=1")] }, "cgroups[0]"],
    [{ cgroups: [cgroup("/cpu.max=1")] }, "cgroups[0]"],
    [{ cgroupVersion: 3 as 2 }, "cgroupVersion"],
    [{ parentCgroup: "/a" }, "parentCgroup"],
    [{ parentCgroup: "a/../b" }, "parentCgroup"],
    [{ parentCgroup: "" }, "parentCgroup"],
    [{ resourceLimits: { fsizeBytes: -1 } }, "resourceLimits.fsizeBytes"],
    [{ resourceLimits: { noFile: 2 ** 60 } }, "resourceLimits.noFile"],
    [{ firecrackerArgs: ["--no-seccomp", "--id"] }, "firecrackerArgs[1]"],
  ];
  for (const [change, field] of rows) {
    assert.throws(
      () => checkJailerOptions({ ...least, ...change }),
      (error) => error instanceof FirecrackerJailerError && error.field === field,
      `${JSON.stringify(change)} must be refused by ${field}`,
    );
  }
});

const hybrid = `sysfs /sys sysfs rw 0 0
tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0
cgroup /sys/fs/cgroup/a\\040b cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0
cgroup2 /mnt/second cgroup2 rw 0 0
`;
const unified = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";

test("planCgroups: version, directories and their parents, by what the host has mounted", () => {
  const onHybrid = parseHostCgroups(hybrid, () => "hugetlb io\n");
  const onV2 = parseHostCgroups(unified, () => "cpu io memory pids\n");
  const plan = (host: typeof onV2, change: Partial<JailerOptions>): CgroupPlan =>
    planCgroups({ ...least, ...change }, "firecracker", host);
  assert.equal(plan(onV2, {}), undefined);
  assert.equal(plan(onV2, { cgroupVersion: 2 }), undefined);
  assert.deepEqual(plan(onV2, { cgroups: ["cpu.max=1"], parentCgroup: "a/b" }), {
    version: 2,
    directories: ["/sys/fs/cgroup/a/b/vm-1"],
    parents: ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a"],
  });
  assert.deepEqual(plan(onHybrid, { cgroups: ["io.max=1"] }), {
    version: 2,
    directories: ["/sys/fs/cgroup/unified/firecracker/vm-1"],
    parents: ["/sys/fs/cgroup/unified/firecracker"],
  });
  assert.deepEqual(plan(onHybrid, { cgroups: ["cpu.shares=1", "cpuacct.x=1", "memory.limit_in_bytes=1"] }), {
    version: 1,
    directories: ["/sys/fs/cgroup/cpu,cpuacct/firecracker/vm-1", "/sys/fs/cgroup/a b/firecracker/vm-1"],
    parents: ["/sys/fs/cgroup/cpu,cpuacct/firecracker", "/sys/fs/cgroup/a b/firecracker"],
  });
  assert.deepEqual(plan(onV2, { parentCgroup: "vms" }), { version: 2, directories: [], parents: [] });
  const refusals: readonly [typeof onV2, Partial<JailerOptions>, string][] = [
    [onV2, { cgroups: ["cpu.max=1"], cgroupVersion: 1 }, "cgroupVersion"],
    [parseHostCgroups("", () => ""), { cgroups: ["cpu.max=1"] }, "cgroupVersion"],
    [onV2, { cgroups: ["cpu.max=1", "rdma.max=1"], cgroupVersion: 2 }, "cgroups[1]"],
    [onHybrid, { cgroups: ["rdma.max=1"] }, "cgroups[0]"],
    [onHybrid, { parentCgroup: "vms", cgroupVersion: 1 }, "parentCgroup"],
  ];
  for (const [host, change, field] of refusals) {
    assert.throws(
      () => plan(host, change),
      (error) => error instanceof FirecrackerJailerError && error.field === field,
      `${JSON.stringify(change)} must be refused by ${field}`,
    );
  }
});
