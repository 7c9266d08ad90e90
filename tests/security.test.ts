/**
 * Classes of faults that other runtimes had, each with one of its CVEs, asked of the real daemon. docs/security.md says where each is,
 * security-classes.test.ts that each is there.
 */
import assert from "node:assert/strict";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { type Header, pack } from "tar-stream";
import { describeEscapes, findKnownEscapes } from "../packages/tinderbox/src/native/known-escapes.ts";
import { NamespaceMode, PodSandboxState } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { pushImage } from "./support/busybox-image.ts";
import type { TestCni } from "./support/cni.ts";
import type { TestContainer, TestCri } from "./support/cri-client.ts";
import { startCriStage, stopCriStage } from "./support/cri-stage.ts";
import type { TestDaemon } from "./support/daemon.ts";
import { eventually } from "./support/kubelet.ts";
import { processesLike } from "./support/process-tree.ts";
import type { TestRegistry } from "./support/test-registry.ts";

const work = mkdtempSync("/tmp/tb-");
let registry: TestRegistry;
let cni: TestCni;
let daemon: TestDaemon;
let cri: TestCri;
let busybox = "";

type Entry = Partial<Header> & { readonly name: string; readonly text?: string };

/** An image of busybox with more entries and another configuration. */
async function image(name: string, entries: readonly Entry[], config: object = {}): Promise<string> {
  const file = readFileSync("/bin/busybox");
  const tar = pack();
  tar.entry({ name: "bin/busybox", mode: 0o755 }, file);
  for (const applet of ["sh", "sleep", "cat", "id", "ls", "touch", "dd", "echo", "true"])
    tar.entry({ name: `bin/${applet}`, type: "symlink", linkname: "busybox" });
  for (const { text, ...header } of entries) tar.entry(header, text ?? "");
  tar.finalize();
  const path = `test/${name}`;
  await pushImage(registry.url, path, "latest", [await buffer(tar)], { Env: ["PATH=/bin"], ...config });
  const full = `${registry.host}/${path}:latest`;
  await cri.pull(full);
  return full;
}

const refused = (code: string, message: RegExp) => (thrown: unknown) => {
  assert.ok(thrown instanceof Error && "code" in thrown, String(thrown));
  assert.equal(thrown.code, code, thrown.message);
  assert.match(thrown.message, message);
  return true;
};

before(async () => {
  ({ registry, cni, daemon, cri, image: busybox } = await startCriStage(work, { logLevel: "info" }));
});
after(() => stopCriStage(work, { registry, cni, daemon, cri }));

for (const handler of ["crun", "firecracker"]) {
  describe(`security of ${handler}`, () => {
    const config = (): ReturnType<TestCri["podConfig"]> => pod.config;
    let pod: { readonly id: string; readonly config: ReturnType<TestCri["podConfig"]> };
    let container: TestContainer;

    before(async () => {
      const podConfig = cri.podConfig();
      pod = { id: await cri.runPod(handler, podConfig), config: podConfig };
      container = await cri.start(pod.id, podConfig, busybox);
    });
    after(() => cri.removePods());

    test("1, sysctls smuggled to the host (CVE-2022-0811, CVE-2022-0532)", async () => {
      const corePattern = readFileSync("/proc/sys/kernel/core_pattern", "utf8");
      const run = (
        sysctls: Record<string, string>,
        network: NamespaceMode = NamespaceMode.POD,
      ): Promise<string> =>
        cri.runPod(
          handler,
          cri.podConfig(
            {},
            { sysctls, securityContext: { namespaceOptions: { network, pid: NamespaceMode.CONTAINER } } },
          ),
        );
      await assert.rejects(
        run({ "kernel.core_pattern": "|/bin/true" }),
        refused("INVALID", /sysctls.*kernel\.core_pattern/),
      );
      await assert.rejects(
        run({ "kernel.shm_rmid_forced": "1\nkernel.core_pattern=|/bin/true" }),
        refused("INVALID", /kernel\.shm_rmid_forced/),
      );
      await assert.rejects(run({ "net/../kernel/core_pattern": "x" }), refused("INVALID", /sysctls/));
      await assert.rejects(
        run({ "kernel.shm_rmid_forced+kernel.core_pattern": "1" }),
        refused("INVALID", /sysctls/),
      );
      await assert.rejects(
        run({ "net.ipv4.ip_forward": "1" }, NamespaceMode.NODE),
        refused("INVALID", /network/),
      );
      // What looks like several is one value, which the kernel takes or refuses as one.
      await run({ "kernel.shm_rmid_forced": "1+kernel.core_pattern=|/bin/true" }).catch(() => {});
      assert.equal(readFileSync("/proc/sys/kernel/core_pattern", "utf8"), corePattern);
    });

    test("2, memory filled by ExecSync (CVE-2022-1708, CVE-2022-31030)", async () => {
      const big =
        "dd if=/dev/zero bs=1M count=40 2>/dev/null; dd if=/dev/zero bs=1M count=20 >&2 2>/dev/null; exit 4";
      const { exitCode, stdout, stderr } = await cri.exec(container, "sh", "-c", big);
      assert.equal(exitCode, 4);
      assert.equal(stdout.length + stderr.length, 16_000_000);
    });

    test("4, accounts written through HOME (CVE-2022-4318, CVE-2026-15809)", async () => {
      const before = await cri.output(container, "cat", "/etc/passwd");
      // The second is what a check for a backslash and an n let through.
      for (const value of ["/root\nevil:x:0:0::/:/bin/sh", "/root\\nevil:x:0:0::/:/bin/sh", "/:/bin/sh"]) {
        const made = await cri.start(pod.id, config(), busybox, {
          envs: [{ key: "HOME", value }],
          linux: {
            securityContext: {
              runAsUser: { value: 4321n },
              namespaceOptions: { pid: NamespaceMode.CONTAINER },
            },
          },
        });
        assert.equal(await cri.output(made, "cat", "/etc/passwd"), before);
      }
    });

    test("5, links and volumes of the image that lead to the host (CVE-2024-5154, CVE-2022-23648)", async () => {
      const victim = join(work, "victim");
      writeFileSync(victim, "untouched");
      const up = "../../../../../../../../../..";
      const evil = await image(
        `links-${handler}`,
        [
          { name: "etc", type: "symlink", linkname: `${up}${work}` },
          { name: "hosts", type: "symlink", linkname: `${up}${victim}` },
          { name: "w", type: "symlink", linkname: `${up}${work}` },
        ],
        { Volumes: { [`/${up}${work}`]: {}, "/w": {} } },
      );
      const made = await cri
        .start(pod.id, config(), evil, {
          workingDir: "/w",
          command: ["sh", "-c", "echo in > mark; sleep 1000"],
        })
        .catch(() => undefined);
      if (made) await cri.exec(made, "touch", "/etc/by-exec");
      // A volume of the image's holds nothing that was there before.
      if (made) assert.doesNotMatch(await cri.output(made, "ls", "-a", "/w/"), /victim|root|cni/);
      assert.equal(readFileSync(victim, "utf8"), "untouched");
      for (const name of ["hosts", "resolv.conf", "hostname", "mark", "by-exec"])
        assert.equal(existsSync(join(work, name)), false, name);
    });

    test("6, log paths that leave their directory (CVE-2025-0750)", async () => {
      const create = (logPath: string): Promise<TestContainer> =>
        cri.create(pod.id, config(), busybox, { logPath });
      await assert.rejects(create("../outside.log"), refused("INVALID", /log_path/));
      await assert.rejects(create("/tmp/outside.log"), refused("INVALID", /log_path/));
      await assert.rejects(create("a/../../b.log"), refused("INVALID", /log_path/));
      const victim = join(work, `log-victim-${handler}`);
      writeFileSync(victim, "untouched");
      symlinkSync(victim, join(config().logDirectory, "linked.log"));
      const linked = cri.start(pod.id, config(), busybox, {
        logPath: "linked.log",
        command: ["echo", "into the victim"],
      });
      const made = await linked.catch(() => undefined);
      if (made) await cri.runtime.callUnary("stopContainer", { containerId: made.id, timeout: 0n });
      assert.equal(readFileSync(victim, "utf8"), "untouched");
      await assert.rejects(
        cri.runPod(handler, cri.podConfig({ logDirectory: "relative/logs" })),
        refused("INVALID", /log_directory/),
      );
      await assert.rejects(
        cri.runPod(
          handler,
          cri.podConfig({ metadata: { name: "x", namespace: "test", uid: "../../x", attempt: 0 } }),
        ),
        refused("INVALID", /metadata\.uid/),
      );
    });

    test("7, checkpoints that bring their own settings (CVE-2024-8676)", async () => {
      const archive = join(work, "checkpoint.tar");
      writeFileSync(archive, "");
      await assert.rejects(cri.create(pod.id, config(), archive), refused("NOT_FOUND", /checkpoint\.tar/));
    });

    test("8 and 9, labels and annotations that reach privileged code (CVE-2026-53488, CVE-2024-3154, CVE-2023-6476)", async () => {
      const marked = await image(`labels-${handler}`, [], {
        Labels: {
          "io.containerd.logger": "binary:///bin/touch",
          "run.oci.hooks.stderr": join(work, "hooked"),
        },
      });
      const annotations = {
        "run.oci.hooks.stdout": join(work, "hooked"),
        "org.systemd.property.ExecStartPre": `'${join(work, "hooked")}'`,
        "io.katacontainers.config.hypervisor.path": "/bin/touch",
        "run.oci.keep_original_groups": "1",
        "run.oci.delegate-cgroup": "x",
      };
      const podConfig = cri.podConfig({ annotations });
      const podId = handler === "crun" ? await cri.runPod(handler, podConfig) : pod.id;
      const made = await cri.start(podId, podConfig, marked, { annotations });
      assert.equal(existsSync(join(work, "hooked")), false);
      // The annotations are the client's again, and nothing of the OCI configuration.
      const { status, info } = await cri.runtime.callUnary("containerStatus", {
        containerId: made.id,
        verbose: true,
      });
      assert.deepEqual(status?.annotations, annotations);
      assert.doesNotMatch(
        JSON.stringify(JSON.parse(info["info"] ?? "{}").runtimeSpec ?? {}),
        /run\.oci|org\.systemd|binary:/,
      );
    });

    test("10, users that become root (CVE-2024-40635, CVE-2026-46680)", async () => {
      for (const user of ["4294967296", "2147483648", "-1", "99999999999999999999"]) {
        const name = await image(`user-${user.replace("-", "m")}-${handler}`, [], { User: user });
        await assert.rejects(cri.create(pod.id, config(), name), refused("INVALID", /USER/), user);
      }
      const named = await image(
        `named-${handler}`,
        [{ name: "etc/passwd", text: "1000:x:0:0::/:/bin/sh\n0x0:x:7:7::/:/bin/sh\n" }],
        { User: "1000" },
      );
      const made = await cri.start(pod.id, config(), named);
      assert.equal((await cri.output(made, "id", "-u")).trim(), "1000");
    });

    test("11, groups and inheritable capabilities (CVE-2022-2995, CVE-2023-25173, CVE-2022-27652)", async () => {
      const made = await cri.start(pod.id, config(), busybox, {
        linux: {
          securityContext: {
            runAsUser: { value: 1234n },
            runAsGroup: { value: 2345n },
            supplementalGroups: [3456n],
            namespaceOptions: { pid: NamespaceMode.CONTAINER },
            capabilities: { addCapabilities: ["NET_ADMIN"] },
          },
        },
      });
      const status = await cri.output(made, "cat", "/proc/1/status");
      assert.match(status, /^Groups:\s+2345 3456 *$/m);
      assert.match(status, /^CapInh:\s+0{16}$/m);
      assert.match(status, /^CapEff:\s+0{16}$/m);
    });

    test("12, an account file without bound (CVE-2026-47262, CVE-2025-4437)", async () => {
      const filler = `${"x".repeat(100)}:x:1:1::/:/bin/sh\n`.repeat(20_000);
      const name = await image(
        `accounts-${handler}`,
        [
          { name: "etc/passwd", text: `${filler}late:x:77:77::/:/bin/sh\n` },
          { name: "etc/group", text: `${filler}late:x:78:late\n` },
        ],
        { User: "late" },
      );
      // Files over 1 MiB are not read at all: a name in them is no name.
      await assert.rejects(cri.create(pod.id, config(), name), refused("INVALID", /USER "late"/));
    });

    test("16, directories and sockets that others may enter (CVE-2021-41103, CVE-2024-25621, CVE-2020-15257)", () => {
      // startDaemon makes the root directory before the daemon does, as an administrator might.
      assert.equal(statSync(join(work, "root")).mode & 0o77, 0);
      // The root of a pod with a user namespace passes through here, and may not look around.
      assert.equal(statSync(join(work, "run")).mode & 0o777, 0o711);
      for (const handler of readdirSync(join(work, "run"), { withFileTypes: true })) {
        if (!handler.isDirectory()) continue;
        for (const kind of readdirSync(join(work, "run", handler.name), { withFileTypes: true })) {
          if (!kind.isDirectory()) continue;
          const path = join(work, "run", handler.name, kind.name);
          const inside = kind.name === "sandboxes" ? readdirSync(path).map((id) => join(path, id)) : [path];
          for (const one of inside) assert.equal(statSync(one).mode & 0o7, 0, one);
        }
      }
      assert.equal(statSync(daemon.socket).mode & 0o777, 0o600);
      const mine = readFileSync("/proc/net/unix", "utf8")
        .split("\n")
        .filter((line) => /@.*(tinderbox|firecracker|tb-)/.test(line));
      assert.deepEqual(mine, []);
    });

    test("17, processes outside the pod's cgroup (CVE-2025-47291, CVE-2019-14891)", () => {
      const ofPod = processesLike(new RegExp(pod.id)).filter(({ pid }) => pid !== process.pid);
      assert.ok(ofPod.length > 0);
      for (const { pid, command } of ofPod) {
        const memory = readFileSync(`/proc/${pid}/cgroup`, "utf8").match(/^\d+:memory:(.*)$|^0::(.*)$/m);
        assert.match(memory?.[1] ?? memory?.[2] ?? "", new RegExp(pod.id), command);
      }
    });

    test("18, descriptors that reach a container (CVE-2024-21626)", async () => {
      // ls has one of its own, for the directory.
      const listed = await cri.output(container, "sh", "-c", "ls -l /proc/1/fd; ls /proc/self/fd");
      assert.doesNotMatch(listed, /-> \/(proc|sys|tmp|work|var)\//);
      assert.match(listed, /\n0\n1\n2\n3\n$/);
      for (const workingDir of ["/proc/self/fd/7", "/proc/self/fd/8", "/proc/self/fd/9"]) {
        const made = await cri
          .start(pod.id, config(), busybox, {
            workingDir,
            command: ["sh", "-c", "ls ../../../../etc; sleep 1000"],
          })
          .catch(() => undefined);
        if (made)
          assert.doesNotMatch(await cri.output(made, "ls", "../../../.."), /tmp.*var.*work/s, workingDir);
      }
    });

    test("a pod's PID 1 that leads to more than the pod has", async () => {
      const linux = {
        securityContext: {
          namespaceOptions: { pid: NamespaceMode.POD },
          capabilities: { addCapabilities: ["SYS_PTRACE", "SYS_CHROOT"] },
        },
      };
      const podConfig = cri.podConfig({ linux });
      const podId = await cri.runPod(handler, podConfig);
      const one = await cri.start(podId, podConfig, busybox, { linux });
      assert.equal(await cri.output(one, "sh", "-c", "cd /proc/1/root/ && ls -a"), ".\n..\n");
      assert.equal(
        await cri.output(one, "sh", "-c", "grep CapEff /proc/1/status"),
        "CapEff:\t0000000000000000\n",
      );
    });

    test("19, router advertisements taken from others (CVE-2020-10749)", async () => {
      const path = "/proc/sys/net/ipv6/conf/eth0/accept_ra";
      const { exitCode, stdout } = await cri.exec(container, "cat", path);
      // 0, or there is no IPv6 at all.
      if (exitCode === 0) assert.equal(Buffer.from(stdout).toString().trim(), "0");
    });

    test("20, an empty log path reported, and dead pods told of as ready (pelagos #347, #351)", async () => {
      const made = await cri.create(pod.id, config(), busybox, { logPath: "" });
      const { status } = await cri.runtime.callUnary("containerStatus", { containerId: made.id });
      assert.ok(status?.logPath === "" || status?.logPath.startsWith("/"), status?.logPath);
      const named = await cri.runtime.callUnary("containerStatus", { containerId: container.id });
      assert.match(named.status?.logPath ?? "", /^\/.*\.log$/);
      const dead = await cri.runPod(handler);
      const isOfPod = (pid: string): boolean => {
        try {
          const command = readFileSync(`/proc/${pid}/cmdline`, "latin1");
          return command.includes(dead) && Number(pid) !== process.pid;
        } catch {
          return false;
        }
      };
      for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name) && isOfPod(name)))
        process.kill(Number(pid), "SIGKILL");
      await eventually("the dead pod is not ready", 20, async () => {
        const { items } = await cri.runtime.callUnary("listPodSandbox", { filter: { id: dead } });
        assert.equal(items[0]?.state, PodSandboxState.SANDBOX_NOTREADY);
      });
    });
  });
}

test("18, a runtime with known escapes is told of at the start (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881)", async () => {
  const told = describeEscapes(await findKnownEscapes("runc"));
  const warned = (): boolean => / WARN.* a runtime to be replaced.*runc/i.test(daemon.said());
  if (told === "") assert.equal(warned(), false);
  else await eventually("the daemon warns", 20, () => assert.ok(warned(), daemon.said()));
});

describe("security of microVMs", () => {
  after(() => cri.removePods());

  test("21 and 22, a guest that writes into an image, or gets a disk of the host (CVE-2026-24054, CVE-2026-24834)", async () => {
    const podConfig = cri.podConfig({}, { securityContext: { privileged: true } });
    const podId = await cri.runPod("firecracker", podConfig);
    const made = await cri.start(podId, podConfig, busybox, {
      linux: { securityContext: { privileged: true, namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
    });
    // Major 254 or so, by what the guest calls it: every drive that has a size and is not the scratch drive.
    const attack =
      "for b in /sys/block/vd*; do [ $(cat $b/size) -gt 1 ] || continue; IFS=: read a i < $b/dev; mknod /tmp/d b $a $i; cat $b/ro; dd if=/dev/zero of=/tmp/d bs=512 count=1 2>&1; rm /tmp/d; done";
    const blocks = join(work, "root/images/blocks");
    const hashes = (): readonly string[] =>
      readdirSync(blocks).map((name) => readFileSync(join(blocks, name)).toString("base64").slice(0, 4000));
    const before = hashes();
    const { stdout } = await cri.exec(made, "sh", "-c", attack);
    assert.match(Buffer.from(stdout).toString(), /^1$/m);
    assert.deepEqual(hashes(), before);
    // An image without a layer has nothing to be a drive.
    await pushImage(registry.url, "test/empty", "latest", [], { Cmd: ["/bin/sh"] });
    const empty = `${registry.host}/test/empty:latest`;
    await assert.rejects(
      (async () => {
        await cri.pull(empty);
        await cri.start(podId, podConfig, empty);
      })(),
    );
  });

  test("24, a VMM with more than it needs (CVE-2026-5747)", async () => {
    const podConfig = cri.podConfig();
    const podId = await cri.runPod("firecracker", podConfig);
    const vmm = readdirSync("/proc").find((pid) => {
      try {
        return (
          /^\d+$/.test(pid) &&
          /qemu-system|^firecracker\0/.test(readFileSync(`/proc/${pid}/cmdline`, "latin1"))
        );
      } catch {
        return false;
      }
    });
    assert.ok(vmm !== undefined && podId !== "");
    const status = readFileSync(`/proc/${vmm}/status`, "utf8");
    assert.match(status, /^Seccomp:\s+2$/m);
    assert.doesNotMatch(readFileSync(`/proc/${vmm}/cmdline`, "latin1"), /-pci\b|pcie=on/);
    assert.notEqual(readlinkSync(`/proc/${vmm}/ns/net`), readlinkSync("/proc/self/ns/net"));
  });
});
