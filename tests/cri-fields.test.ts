/** Fields and calls of the CRI that critest v1.36.0 asks nothing about, each by its effect in a container, on every kind of handler. */
import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import {
  MetricType,
  NamespaceMode,
  SecurityProfile_ProfileType,
} from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import type { TestCni } from "./support/cni.ts";
import type { TestContainer, TestCri } from "./support/cri-client.ts";
import { startCriStage, stopCriStage } from "./support/cri-stage.ts";
import type { TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import type { TestRegistry } from "./support/test-registry.ts";

/** What a kubelet's metrics endpoint passes on. */
const wantedMetrics =
  "blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes fs_reads_bytes_total fs_reads_total fs_usage_bytes fs_writes_bytes_total fs_writes_total hugetlb_max_usage_bytes hugetlb_usage_bytes last_seen memory_cache memory_failcnt memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes memory_working_set_bytes network_receive_bytes_total network_receive_errors_total network_receive_packets_dropped_total network_receive_packets_total network_transmit_bytes_total network_transmit_errors_total network_transmit_packets_dropped_total network_transmit_packets_total oom_events_total pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares spec_memory_limit_bytes spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes start_time_seconds threads threads_max ulimits_soft".split(
    " ",
  );
/** Of those, what the kernel under a handler does not count. */
function withoutSample(handler: string): Set<string> {
  const names = wantedMetrics.filter(
    (name) =>
      // Block devices may not have been touched yet.
      name === "blkio_device_usage_total" ||
      // Cgroup version 2, which every guest has, keeps no maximum.
      (name === "hugetlb_max_usage_bytes" &&
        (handler === "firecracker" || !existsSync("/sys/fs/cgroup/hugetlb"))) ||
      (name.startsWith("pressure_") && handler !== "firecracker" && !hostHasPressure()),
  );
  return new Set(names.map((name) => `container_${name}`));
}

/** Whether the kernel was built with PSI and not started with psi=0. */
function hostHasPressure(): boolean {
  try {
    return readFileSync("/proc/pressure/cpu", "utf8").startsWith("some ");
  } catch {
    return false;
  }
}

const ownPid = { namespaceOptions: { pid: NamespaceMode.CONTAINER } };

describe("fields of the CRI", () => {
  const work = mkdtempSync("/tmp/tb-");
  // The root of a user namespace has to get through it.
  chmodSync(work, 0o711);
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let cri: TestCri;
  let image = "";

  before(async () => {
    snapshot = snapshotHost([]);
    ({ registry, cni, daemon, cri, image } = await startCriStage(work));
  });

  const tearDown = (): Promise<void> => stopCriStage(work, { registry, cni, daemon, cri });
  let isDown = false;
  after(async () => {
    if (!isDown) await tearDown();
  });

  for (const handler of ["crun", "firecracker"]) {
    describe(handler, () => {
      const memory = 64n << 20n;
      let podId = "";
      let config: ReturnType<TestCri["podConfig"]>;
      let main: TestContainer;

      before(async () => {
        config = cri.podConfig({
          linux: {
            securityContext: ownPid,
            resources: { memoryLimitInBytes: 400n << 20n, cpuPeriod: 100_000n, cpuQuota: 100_000n },
          },
        });
        podId = await cri.runPod(handler, config);
        main = await cri.start(podId, config, image, {
          linux: {
            securityContext: ownPid,
            resources: {
              memoryLimitInBytes: memory,
              cpuPeriod: 100_000n,
              cpuQuota: 50_000n,
              oomScoreAdj: 500n,
            },
          },
        });
      });
      after(() => cri.removePods());

      test("every metric that is described has a sample with all its labels, and the figures are those asked for", async () => {
        await cri.output(main, "sh", "-c", "dd if=/dev/zero of=/written bs=1M count=2 2>/dev/null; sync");
        const { descriptors } = await cri.runtime.callUnary("listMetricDescriptors", {});
        const { podMetrics } = await cri.runtime.callUnary("listPodSandboxMetrics", {});
        const pod = podMetrics.find(({ podSandboxId }) => podSandboxId === podId);
        const samples = [
          ...(pod?.metrics ?? []),
          ...(pod?.containerMetrics ?? []).flatMap(({ metrics }) => metrics),
        ];
        const described = new Map(descriptors.map((one) => [one.name, one]));
        assert.deepEqual(
          wantedMetrics.map((name) => `container_${name}`).filter((name) => !described.has(name)),
          [],
        );
        const mayHaveNoSample = withoutSample(handler);
        for (const { name, help, labelKeys } of descriptors) {
          assert.notEqual(help, "", name);
          const own = samples.filter((sample) => sample.name === name);
          if (own.length === 0 && !mayHaveNoSample.has(name)) assert.fail(`${name} has no sample`);
          for (const sample of own) assert.equal(sample.labelValues.length, labelKeys.length, name);
        }
        const value = (name: string): bigint | undefined =>
          samples.find((sample) => sample.name === `container_${name}`)?.value?.value;
        assert.equal(value("spec_memory_limit_bytes"), memory);
        assert.equal(value("spec_cpu_quota"), 50_000n);
        assert.ok((value("fs_usage_bytes") ?? 0n) >= 2n << 20n, `fs_usage_bytes ${value("fs_usage_bytes")}`);
        assert.ok((value("memory_usage_bytes") ?? 0n) > 0n);
        assert.ok((value("network_receive_packets_total") ?? 0n) > 0n);
        assert.equal(value("processes"), 1n);
        const kind = (name: string) =>
          samples.find((sample) => sample.name === `container_${name}`)?.metricType;
        assert.deepEqual(
          [kind("oom_events_total"), kind("processes")],
          [MetricType.COUNTER, MetricType.GAUGE],
        );
      });

      test("pressure, huge pages and open files are the container's own, in metrics and statistics", async () => {
        const enoughNs = 10_000_000n;
        // Two busy loops in half a processor: somebody waits, on an idle machine not much in each round.
        for (let round = 0; round < 100; round++) {
          await cri.output(
            main,
            "sh",
            "-c",
            "for n in 1 2; do (n=0; while [ $n -lt 40000 ]; do n=$((n+1)); done) & done; wait",
          );
          const { stats } = await cri.runtime.callUnary("containerStats", { containerId: main.id });
          if ((stats?.cpu?.psi?.Some?.Total ?? enoughNs + 1n) > enoughNs) break;
        }
        const { podMetrics } = await cri.runtime.callUnary("listPodSandboxMetrics", {});
        const own = podMetrics.find(({ podSandboxId }) => podSandboxId === podId)?.containerMetrics[0];
        const sample = (name: string) => own?.metrics.filter((one) => one.name === `container_${name}`) ?? [];
        const [files] = sample("ulimits_soft");
        const limits = await cri.output(main, "grep", "Max open files", "/proc/1/limits");
        assert.equal(files?.value?.value, BigInt(limits.split(/ +/)[3] ?? ""), limits);
        assert.equal(files?.labelValues.at(-1), "max_open_files");
        const sizes = sample("hugetlb_usage_bytes").map(({ labelValues }) => labelValues.at(-1));
        assert.ok(sizes.includes("2MB"), `page sizes ${sizes.join(" ")}`);
        for (const one of sample("hugetlb_usage_bytes")) assert.equal(one.value?.value, 0n);

        const { stats } = await cri.runtime.callUnary("containerStats", { containerId: main.id });
        const pod = (await cri.runtime.callUnary("podSandboxStats", { podSandboxId: podId })).stats?.linux;
        if (handler !== "firecracker" && !hostHasPressure()) {
          assert.deepEqual([stats?.cpu?.psi, stats?.io, pod?.cpu?.psi, pod?.io], Array(4).fill(undefined));
          return;
        }
        const waited = stats?.cpu?.psi?.Some?.Total ?? 0n;
        assert.ok(waited > enoughNs, `${waited} ns waited for a processor`);
        // The metric is older than the statistics, and in whole seconds.
        const [waiting] = sample("pressure_cpu_waiting_seconds_total");
        assert.ok((waiting?.value?.value ?? -1n) <= waited / 1_000_000_000n);
        assert.ok((pod?.cpu?.psi?.Some?.Total ?? 0n) >= waited, "the pod waited at least as long");
        for (const psi of [stats?.memory?.psi, stats?.io?.psi, pod?.memory?.psi, pod?.io?.psi])
          assert.ok(
            psi?.Some !== undefined && psi.Full !== undefined,
            JSON.stringify(Object.keys(psi ?? {})),
          );
      });

      test("a container that is given no huge pages may use none, of sizes that there are", async () => {
        const hugepageLimits = ["2MB", "1GB"].map((pageSize) => ({ pageSize, limit: 0n }));
        const without = await cri.start(podId, config, image, {
          linux: {
            securityContext: { ...ownPid, runAsUser: { value: 1000n } },
            resources: { hugepageLimits },
          },
        });
        const files = "/sys/fs/cgroup/hugetlb.2MB.max /sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes";
        assert.equal(await cri.output(without, "sh", "-c", `cat ${files} 2>/dev/null || true`), "0\n");
        await cri.runtime.callUnary("updateContainerResources", {
          containerId: without.id,
          linux: { hugepageLimits, memoryLimitInBytes: memory },
        });
        // Of a user's process, too, whose limits not everybody may ask for.
        const { podMetrics } = await cri.runtime.callUnary("listPodSandboxMetrics", {});
        const own = podMetrics
          .flatMap(({ containerMetrics }) => containerMetrics)
          .find(({ containerId }) => containerId === without.id);
        assert.ok(own?.metrics.some(({ name }) => name === "container_ulimits_soft"));
      });

      test("statistics of the pod have its network and its container's writable layer", async () => {
        const { stats } = await cri.runtime.callUnary("podSandboxStats", { podSandboxId: podId });
        assert.equal(stats?.linux?.network?.defaultInterface?.name, "eth0");
        assert.ok((stats?.linux?.network?.defaultInterface?.rxBytes?.value ?? 0n) > 0n);
        const [container] = stats?.linux?.containers ?? [];
        assert.ok((container?.writableLayer?.usedBytes?.value ?? 0n) >= 2n << 20n);
        assert.ok((container?.writableLayer?.inodesUsed?.value ?? 0n) >= 1n);
      });

      test("UpdateContainerResources changes the limits and the OOM score, and the status says so", async () => {
        const linux = { memoryLimitInBytes: 96n << 20n, oomScoreAdj: 700n };
        await cri.runtime.callUnary("updateContainerResources", { containerId: main.id, linux });
        const files = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null";
        assert.match(
          await cri.output(main, "sh", "-c", `${files} || true`),
          new RegExp(`^${96 << 20}$`, "m"),
        );
        assert.equal(await cri.output(main, "cat", "/proc/1/oom_score_adj"), "700\n");
        const { status } = await cri.runtime.callUnary("containerStatus", { containerId: main.id });
        assert.equal(status?.resources?.linux?.memoryLimitInBytes, 96n << 20n);
        assert.equal(status?.resources?.linux?.cpuQuota, 50_000n);
      });

      test("an image is a volume: read-only, a part of it by its path, and never anything outside it", async () => {
        const mount = (imageSubPath: string, readonly = true) => ({
          containerPath: "/volume",
          image: { image },
          imageSubPath,
          readonly,
        });
        const whole = await cri.start(podId, config, image, { mounts: [mount("")] });
        assert.match(await cri.output(whole, "ls", "/volume"), /^bin$/m);
        assert.notEqual((await cri.exec(whole, "touch", "/volume/x")).exitCode, 0);
        const part = await cri.start(podId, config, image, { mounts: [mount("etc")] });
        assert.match(await cri.output(part, "cat", "/volume/passwd"), /^root:/);
        const { status } = await cri.runtime.callUnary("containerStatus", { containerId: part.id });
        assert.equal(status?.mounts[0]?.image?.image, image);
        assert.equal(status?.mounts[0]?.imageSubPath, "etc");
        await assert.rejects(cri.create(podId, config, image, { mounts: [mount("no/such")] }), /no\/such/);
        await assert.rejects(
          cri.create(podId, config, image, { mounts: [mount("../..")] }),
          /image_sub_path/,
        );
        await assert.rejects(cri.create(podId, config, image, { mounts: [mount("", false)] }), /readonly/);
        const missing = { ...mount(""), image: { image: "example.com/none:1" } };
        await assert.rejects(
          cri.create(podId, config, image, { mounts: [missing] }),
          /ImageVolumeMountFailed.*example\.com\/none:1/,
        );
      });

      test("what one container writes to /dev/shm the pod's others see, and the host does not", async () => {
        const write = "echo shared > /dev/shm/x; exec sleep 1000";
        const writer = await cri.start(podId, config, image, { command: ["sh", "-c", write] });
        const other = await cri.start(podId, config, image);
        await cri.output(writer, "sh", "-c", "until [ -s /dev/shm/x ]; do sleep 0.1; done");
        assert.equal(await cri.output(other, "cat", "/dev/shm/x"), "shared\n");
        assert.match(
          await cri.output(other, "sh", "-c", "grep ' /dev/shm ' /proc/mounts"),
          /nosuid,nodev,noexec/,
        );
        assert.equal(existsSync("/dev/shm/x"), false);
      });

      test("a PID namespace of another container is joined by TARGET", async () => {
        const namespaceOptions = { pid: NamespaceMode.TARGET, targetId: main.id };
        const debug = await cri.start(podId, config, image, {
          linux: { securityContext: { namespaceOptions } },
        });
        assert.match(await cri.output(debug, "cat", "/proc/1/oom_score_adj"), /^700$/m);
        const nowhere = { ...namespaceOptions, targetId: "0123456789abcdef" };
        await assert.rejects(
          cri.create(podId, config, image, { linux: { securityContext: { namespaceOptions: nowhere } } }),
          /0123456789abcdef/,
        );
      });

      test("seccomp's default lets programs run and keeps new namespaces from them", async () => {
        const seccomp = { profileType: SecurityProfile_ProfileType.RuntimeDefault };
        const confined = await cri.start(podId, config, image, {
          linux: { securityContext: { ...ownPid, seccomp } },
        });
        assert.match(await cri.output(confined, "cat", "/proc/self/status"), /^Seccomp:\s+2$/m);
        const { exitCode, stderr } = await cri.exec(confined, "unshare", "-U", "true");
        assert.notEqual(exitCode, 0);
        assert.match(Buffer.from(stderr).toString(), /Operation not permitted/);
        assert.equal(
          await cri.output(confined, "sh", "-c", "echo a | cat; mkdir /d && mv /d /e && rmdir /e"),
          "a\n",
        );
      });

      test("what the pod's containers may use decides the size of a microVM", async () => {
        const total = /^MemTotal:\s+(\d+) kB$/m.exec(await cri.output(main, "cat", "/proc/meminfo"))?.[1];
        if (handler === "firecracker") assert.ok(Number(total) > 420_000, `${total} kB`);
        const update = (memoryMib: bigint) =>
          cri.runtime.callUnary("updatePodSandboxResources", {
            podSandboxId: podId,
            resources: { memoryLimitInBytes: memoryMib << 20n },
          });
        await update(200n);
        const grow = (linux: { memoryLimitInBytes?: bigint; cpuPeriod?: bigint; cpuQuota?: bigint }) =>
          cri.runtime.callUnary("updateContainerResources", { containerId: main.id, linux });
        if (handler === "firecracker") {
          // Never UNSUPPORTED, which a kubelet passes over.
          const limit = (message: RegExp) => ({ code: "LIMIT", message });
          await assert.rejects(
            update(4000n),
            limit(/1 vCPU and 528 MiB and does not grow; allowed is resources of at most 1 CPU and 400 MiB/),
          );
          await update(400n);
          await assert.rejects(
            grow({ memoryLimitInBytes: 4000n << 20n }),
            limit(/linux\.memory_limit_in_bytes 4194304000: .*at most 553648128,/),
          );
          await assert.rejects(
            grow({ cpuPeriod: 100_000n, cpuQuota: 200_000n }),
            limit(/linux\.cpu_quota 200000: .*at most 1 times cpu_period, 100000/),
          );
        } else await update(4000n);
        await grow({ memoryLimitInBytes: 128n << 20n });
        await assert.rejects(
          cri.runtime.callUnary("updatePodSandboxResources", { podSandboxId: "0123456789abcdef" }),
          { code: "NOT_FOUND" },
        );
      });
    });
  }

  for (const handler of ["crun", "runc"]) {
    test(`${handler}: in a pod with a user namespace root is nobody outside, has its ports, and its volumes' files`, async () => {
      const outside = 300_000;
      const map = [{ containerId: 0, hostId: outside, length: 65_536 }];
      const volume = join(work, `volume-${handler}`);
      mkdirSync(volume);
      writeFileSync(join(volume, "given"), "");
      const namespaceOptions = {
        pid: NamespaceMode.POD,
        usernsOptions: { mode: NamespaceMode.POD, uids: map, gids: map },
      };
      const linux = { securityContext: { namespaceOptions } };
      const config = cri.podConfig({
        hostname: "apart",
        linux: { ...linux, sysctls: { "kernel.shmmni": "99" } },
      });
      const podId = await cri.runPod(handler, config);
      const container = await cri.start(podId, config, image, {
        mounts: [{ containerPath: "/volume", hostPath: volume, uidMappings: map, gidMappings: map }],
        linux,
      });
      const script = `id -u; hostname; cat /proc/sys/kernel/shmmni; stat -c %u /volume/given /bin/busybox /etc/hosts
        touch /volume/made /etc/made; chown 7 /volume/made; nc -l -p 80 </dev/null >/dev/null 2>&1 &
        until netstat -ltn | grep ':80 ' >/dev/null; do kill -0 $! || exit 1; done; kill $!; echo listens`;
      assert.equal(await cri.output(container, "sh", "-c", script), "0\napart\n99\n0\n0\n0\nlistens\n");
      assert.equal(statSync(join(volume, "made")).uid, 7);
      const { status } = await cri.runtime.callUnary("podSandboxStatus", { podSandboxId: podId });
      assert.equal(status?.linux?.namespaces?.options?.usernsOptions?.uids[0]?.hostId, outside);
      await assert.rejects(
        cri.create(podId, config, image, {
          linux: { securityContext: { ...linux.securityContext, runAsUser: { value: 70_000n } } },
        }),
        /70000/,
      );
      await cri.removePods();
    });
  }

  test("nothing is left on the host", async () => {
    await tearDown();
    isDown = true;
    assertNothingAdded(snapshot);
  });
});
