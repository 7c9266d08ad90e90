/** PodSandboxConfig, without what stands in its Linux security context. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { NamespaceMode, type Protocol } from "../../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { below, type Row } from "./row.ts";
import { cgroupDirectories, cpu, mib, natRules, ports, type Scene } from "./scene.ts";

const pod = "PodSandboxConfig";

const metadata = (name: "name" | "uid" | "namespace" | "attempt"): Row => ({
  fields: below(`${pod}.metadata`, name),
  outcome: "told back",
  note: "PodSandboxStatus; with the others it is the pod's identity",
  check: async (scene) => {
    const { status } = await scene.podStatus();
    assert.equal(status.metadata?.[name], scene.config.metadata?.[name]);
  },
});

const dns = (name: string, line: string): Row => ({
  fields: below(`${pod}.dns_config`, name),
  outcome: "obeyed",
  note: "/etc/resolv.conf",
  check: async ({ cri, c }) => {
    const lines = (await cri.output(c.plain, "cat", "/etc/resolv.conf")).split("\n");
    assert.ok(lines.includes(line), lines.join("\n"));
  },
});

/** Processes in a cgroup and below it, in all hierarchies. */
function processesBelow(cgroup: string): readonly string[] {
  const walk = (directory: string): readonly string[] => [
    ...readFileSync(join(directory, "cgroup.procs"), "utf8").split("\n").filter(Boolean),
    ...readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .flatMap(({ name }) => walk(join(directory, name))),
  ];
  return cgroupDirectories(cgroup).flatMap(walk);
}

const amounts = ["resources", "overhead"] as const;

/** The pod's configuration as the verbose status has it. */
async function toldAmount(scene: Scene, part: string, name: string): Promise<unknown> {
  const { info } = await scene.podStatus();
  // Our own daemon wrote it.
  return (info as { config: Record<string, Record<string, unknown>> }).config[part]?.[name];
}

const sizing = amounts.flatMap((part): readonly Row[] => [
  {
    fields: below(`${pod}.linux.${part}`, "cpu_period cpu_quota"),
    on: "microvm",
    outcome: "obeyed",
    note: "the number of the microVM's CPUs: both together, rounded up, at most the host's",
    check: async ({ cri, c }) => {
      assert.equal(
        Number(await cri.output(c.privileged, "grep", "-c", "^processor", "/proc/cpuinfo")),
        Math.min(2, availableParallelism()),
      );
    },
  },
  {
    fields: below(`${pod}.linux.${part}`, "memory_limit_in_bytes"),
    on: "microvm",
    outcome: "obeyed",
    note: "the microVM's memory: both together",
    check: async ({ cri, c }) => {
      const text = await cri.output(c.privileged, "cat", "/proc/meminfo");
      const total = Number(/^MemTotal:\s+(\d+) kB$/m.exec(text)?.[1]);
      assert.ok(total > 550_000 && total < 600 * 1024, `${total} kB`);
    },
  },
  {
    fields: below(`${pod}.linux.${part}`, "cpu_period cpu_quota memory_limit_in_bytes"),
    on: "host",
    outcome: "told back",
    note: "a hint for sizing; PodSandboxStatus, verbose. The limit is the kubelet's, on cgroup_parent",
    check: async (scene) => {
      assert.equal(await toldAmount(scene, part, "cpuPeriod"), Number(cpu));
      assert.equal(await toldAmount(scene, part, "cpuQuota"), Number(cpu));
      const memory = (part === "resources" ? 400n : 200n) * mib;
      assert.equal(await toldAmount(scene, part, "memoryLimitBytes"), Number(memory));
    },
  },
  {
    fields: below(`${pod}.linux.${part}`, "cpu_shares unified"),
    outcome: "told back",
    note: "a hint; PodSandboxStatus, verbose. The kubelet sets it on cgroup_parent",
    check: async (scene) => {
      assert.equal(await toldAmount(scene, part, "cpuShares"), 512);
      assert.deepEqual(await toldAmount(scene, part, "unified"), { "memory.oom.group": "1" });
    },
  },
  ...(
    [
      ["oom_score_adj", { oomScoreAdj: 1n }],
      ["cpuset_cpus", { cpusetCpus: "0" }],
      ["cpuset_mems", { cpusetMems: "0" }],
      ["memory_swap_limit_in_bytes", { memorySwapLimitInBytes: 1n }],
    ] as const
  ).map(
    ([name, linux]): Row => ({
      fields: below(`${pod}.linux.${part}`, name),
      outcome: "refused",
      note: "only containers have it",
      check: (scene) =>
        scene.refusesPod({ linux: { [part]: linux } }, new RegExp(`^config\\.linux\\.${part}\\.${name}: `)),
    }),
  ),
  {
    fields: below(`${pod}.linux.${part}.hugepage_limits`, "page_size limit"),
    outcome: "refused",
    note: "only containers have it",
    check: (scene) =>
      scene.refusesPod(
        { linux: { [part]: { hugepageLimits: [{ pageSize: "2MB", limit: 1n }] } } },
        new RegExp(`^config\\.linux\\.${part}\\.hugepage_limits: `),
      ),
  },
]);

export const podRows: readonly Row[] = [
  ...(["name", "uid", "namespace", "attempt"] as const).map(metadata),
  {
    fields: below(pod, "hostname"),
    outcome: "obeyed",
    note: "`hostname`, /etc/hostname, HOSTNAME. In the node's network: the node's or none",
    check: async (scene) => {
      const { cri, c } = scene;
      assert.equal(
        await cri.output(c.plain, "sh", "-c", "hostname; cat /etc/hostname; echo $HOSTNAME"),
        "fieldhost\n".repeat(3),
      );
      const linux = { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } };
      await scene.refusesPod({ hostname: "other", linux }, /^config\.hostname: "other" /);
    },
  },
  {
    fields: below(pod, "log_directory"),
    outcome: "obeyed",
    note: "the containers' logs are in it",
    check: async (scene) => {
      const { logPath } = await scene.containerStatus(scene.c.plain);
      assert.equal(dirname(dirname(logPath)), scene.config.logDirectory);
      await scene.log(logPath, "zero one");
    },
  },
  dns("servers", "nameserver 192.0.2.53"),
  dns("searches", "search fields.test"),
  dns("options", "options ndots:3"),
  {
    fields: below(`${pod}.port_mappings`, "container_port host_port host_ip"),
    outcome: "obeyed",
    note: "a connection to the host's port at that address reaches the container. Refused where no CNI plugin takes portMappings; in the node's network the two ports are one",
    check: async (scene) => {
      const { cri, c, stage } = scene;
      const listen = `nc -ll -p ${ports.container} -e echo reached </dev/null >/dev/null 2>&1 &
        until netstat -ltn | grep -q ':${ports.container} '; do kill -0 $! || exit 1; done`;
      await cri.output(c.plain, "sh", "-c", listen);
      assert.equal(await scene.connectTo(stage.hostIp), "reached\n");
      assert.equal(await scene.connectTo("127.0.0.1"), "ECONNREFUSED");
      const linux = { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } };
      const portMappings = [{ containerPort: 1, hostPort: 2 }];
      await scene.refusesPod({ portMappings, linux }, /^config\.port_mappings\[0\]\.host_port: 2 /);
    },
  },
  {
    fields: below(`${pod}.port_mappings`, "protocol"),
    outcome: "obeyed",
    note: "TCP by a connection, UDP and TCP by the rules that portmap was told to make",
    check: async (scene) => {
      const rules = natRules();
      const ip = (await scene.podStatus()).status.network?.ip;
      const target = `${ip}:${ports.container}`;
      const has = (protocol: string, port: number): boolean =>
        rules.some(
          (rule) =>
            rule.includes(`-p ${protocol} `) && rule.includes(`--dport ${port} `) && rule.endsWith(target),
        );
      assert.ok(has("tcp", ports.tcp), rules.join("\n"));
      assert.ok(has("udp", ports.udp) && !has("tcp", ports.udp), rules.join("\n"));
      const portMappings = [{ protocol: 9 as Protocol, containerPort: 1, hostPort: 1 }];
      await scene.refusesPod({ portMappings }, /^config\.port_mappings\[0\]\.protocol: 9 /);
    },
  },
  {
    fields: below(pod, "labels annotations"),
    outcome: "told back",
    note: "PodSandboxStatus and lists",
    check: async (scene) => {
      const filter = { labelSelector: { "pod-label": "1" } };
      const { items } = await scene.cri.runtime.callUnary("listPodSandbox", { filter });
      assert.deepEqual(
        items.map(({ id }) => id),
        [scene.podId],
      );
      for (const one of [items[0], (await scene.podStatus()).status]) {
        assert.deepEqual(one?.labels, { "pod-label": "1" });
        assert.deepEqual(one?.annotations, { "pod-annotation": "2" });
      }
    },
  },
  {
    fields: below(`${pod}.linux`, "cgroup_parent"),
    outcome: "obeyed",
    note: "processes of the pod are in a cgroup below it on the host; with firecracker the VMM is",
    check: ({ stage, podId }) => {
      const cgroup = join(stage.cgroupParent, `tinderbox-${podId}`);
      assert.notDeepEqual(processesBelow(cgroup), []);
    },
  },
  {
    fields: below(`${pod}.linux`, "sysctls"),
    outcome: "obeyed",
    note: "/proc/sys of a container: net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*; others are refused",
    check: async (scene) => {
      const files = "/proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni";
      assert.equal(await scene.sh(scene.c.plain, `cat ${files}`), "77\n99\n");
      await scene.refusesPod(
        { linux: { sysctls: { "kernel.panic": "1" } } },
        /^config\.linux\.sysctls\[kernel\.panic\]/,
      );
    },
  },
  ...sizing,
];
