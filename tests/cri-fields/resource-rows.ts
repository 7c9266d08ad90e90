/** LinuxContainerResources of a container, by what its cgroup says (version 1 on some hosts, 2 in every guest). */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { below, type Row } from "./row.ts";
import { mib } from "./scene.ts";

const resources = "ContainerConfig.linux.resources";

/** A row whose value is in one of two files. */
const limit = (
  names: string,
  files: { readonly v1: string; readonly v2: string },
  values: readonly string[],
  note = `\`${files.v1}\` or \`${files.v2}\` of its cgroup`,
): Row => ({
  fields: below(resources, names),
  outcome: "obeyed",
  note,
  check: async (scene) => {
    const value = await scene.cgroup(files.v1, files.v2);
    assert.ok(values.includes(value), value);
  },
});

export const resourceRows: readonly Row[] = [
  {
    fields: below(resources, "cpu_period"),
    outcome: "obeyed",
    note: "`cpu.cfs_period_us` or `cpu.max` of its cgroup",
    check: async (scene) => {
      const value = await scene.cgroup("cpu/cpu.cfs_period_us", "cpu.max");
      assert.ok(["50000", "25000 50000"].includes(value), value);
    },
  },
  limit("cpu_quota", { v1: "cpu/cpu.cfs_quota_us", v2: "cpu.max" }, ["25000", "25000 50000"]),
  limit("cpu_shares", { v1: "cpu/cpu.shares", v2: "cpu.weight" }, ["512", "20", "59"]),
  limit("memory_limit_in_bytes", { v1: "memory/memory.limit_in_bytes", v2: "memory.max" }, [
    String(64n * mib),
  ]),
  limit("memory_swap_limit_in_bytes", { v1: "memory/memory.memsw.limit_in_bytes", v2: "memory.swap.max" }, [
    String(96n * mib),
    String(32n * mib),
  ]),
  {
    fields: below(resources, "oom_score_adj"),
    outcome: "obeyed",
    note: "/proc/1/oom_score_adj; never below the daemon's own where it has no CAP_SYS_RESOURCE",
    check: async ({ cri, c }) => {
      assert.equal(await cri.output(c.plain, "cat", "/proc/1/oom_score_adj"), "500\n");
    },
  },
  limit("cpuset_cpus", { v1: "cpuset/cpuset.cpus", v2: "cpuset.cpus" }, ["0"]),
  {
    fields: below(resources, "cpuset_mems"),
    outcome: "obeyed",
    note: "`cpuset/cpuset.mems` or `cpuset.mems` of its cgroup; a node that is not there fails the start",
    check: async (scene) => {
      assert.equal(await scene.cgroup("cpuset/cpuset.mems", "cpuset.mems"), "0");
      // With one node the value alone could be an inherited one.
      const linux = { resources: { cpusetMems: "63" } };
      await assert.rejects(
        scene.cri.start(scene.podId, scene.config, scene.stage.image, { linux }),
        /cpuset/,
      );
    },
  },
  {
    ...limit(
      "hugepage_limits.page_size",
      { v1: "hugetlb/hugetlb.2MB.limit_in_bytes", v2: "hugetlb.2MB.max" },
      [String(4n * mib)],
    ),
    fields: below(`${resources}.hugepage_limits`, "page_size limit"),
  },
  {
    fields: below(resources, "unified"),
    on: "microvm",
    outcome: "obeyed",
    note: "`memory.high` of its cgroup",
    check: async (scene) => assert.equal(await scene.cgroup("memory.high"), String(48n * mib)),
  },
  {
    fields: below(resources, "unified"),
    on: "host",
    outcome: "obeyed",
    note: "on a host with cgroup version 2; with version 1 refused by name",
    check: async (scene) => {
      const linux = { resources: { unified: { "memory.high": String(48n * mib) } } };
      if (!existsSync("/sys/fs/cgroup/cgroup.controllers"))
        return scene.refusesContainer(
          { linux },
          /resources\.unified "memory\.high": this host has cgroup v1/,
        );
      const container = await scene.cri.start(scene.podId, scene.config, scene.stage.image, { linux });
      assert.equal(await scene.cri.output(container, "cat", "/sys/fs/cgroup/memory.high"), `${48n * mib}\n`);
    },
  },
];
