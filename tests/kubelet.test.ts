/** A real kubelet with static pods on each handler: what an operator would put under a node. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { WebSocket } from "ws";
import { pushBusyboxImage, pushImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { crictl } from "./support/crictl.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { eventually, TestKubelet } from "./support/kubelet.ts";
import { forwardThroughKubelet } from "./support/kubelet-port-forward.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { makeKey } from "./support/sign-image.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  assert.ok(typeof address === "object" && address !== null);
  server.close();
  return address.port;
}

/** Log lines of the kubelet about what a runtime does that are no fault: a container asked for after its removal, a call it took back itself, a line that gives no reason (the one before does). */
const harmless =
  /Missing actuated pod level resource record|"Failed to stop sandbox" podSandboxID|ContainerStatus from runtime service failed.*NotFound|CrashLoopBackOff|code = Canceled/;

/** Errors of a kubelet without an API server, at each of its starts, or on a host like these, whose root device its cAdvisor does not find. */
const ofTheKubelet = new RegExp(
  [
    "Failed to set rlimit",
    "Skipping pod synchronization",
    "Failed to set some node status fields",
    "cannot find filesystem info for device",
    "Failed to read data from checkpoint",
    "failed to check if node is newer",
    "Failed to ensure process in container with oom score",
    "failed to check if we have separate container filesystem",
    // The capacity is its cAdvisor's to find, which a start may be quicker than; the CRI tells none.
    "Image garbage collection failed once\\. .*invalid capacity 0 on image filesystem",
  ].join("|"),
);

for (const handler of ["crun", "firecracker"]) {
  describe(`kubelet on ${handler}`, () => {
    const work = mkdtempSync("/tmp/tb-");
    const volume = join(work, "volume");
    let snapshot: Snapshot;
    let registry: TestRegistry;
    let cni: TestCni;
    let daemon: TestDaemon;
    let kubelet: TestKubelet;
    let port = 0;
    let image = "";
    let isDown = false;

    const imagesRoot = join(work, "root/images");
    const diskBytes = 160 << 20;
    const start = (): Promise<TestDaemon> =>
      startDaemon({
        root: join(work, "root"),
        state: join(work, "run"),
        configToml: `default_runtime = "${handler}"
${cni.toml}
[images]
pinned = ["${registry.host}/test/pinned*"]
[images.policy."${registry.host}/signed"]
type = "sigstoreSigned"
keys = ["${join(work, "cosign.pub")}"]
`,
      });
    /** As a ConfigMap volume is written: a directory for each version, and a link that is exchanged. */
    const writeVersion = (text: string): void => {
      const version = join(volume, `..${text}`);
      mkdirSync(version);
      writeFileSync(join(version, "key"), text);
      symlinkSync(`..${text}`, join(volume, "..data_new"));
      renameSync(join(volume, "..data_new"), join(volume, "..data"));
    };
    const manifest = (): object => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "web", namespace: "default" },
      spec: {
        terminationGracePeriodSeconds: 20,
        volumes: [
          { name: "config", hostPath: { path: volume, type: "Directory" } },
          { name: "shared", emptyDir: {} },
        ],
        initContainers: [
          {
            name: "init",
            image,
            command: ["sh", "-c", "echo from init > /shared/index.html; echo init done"],
            volumeMounts: [{ name: "shared", mountPath: "/shared" }],
          },
          {
            name: "sidecar",
            image,
            restartPolicy: "Always",
            command: ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
          },
        ],
        containers: [
          {
            name: "main",
            image,
            command: [
              "sh",
              "-c",
              "trap 'echo bye; exit 0' TERM; echo started; httpd -p 8080 -h /shared; touch /tmp/ready; while :; do sleep 1 & wait $!; done",
            ],
            ports: [{ containerPort: 8080 }],
            volumeMounts: [
              { name: "shared", mountPath: "/shared" },
              { name: "config", mountPath: "/config", readOnly: true },
            ],
            startupProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1, failureThreshold: 60 },
            readinessProbe: { exec: { command: ["cat", "/tmp/ready"] }, periodSeconds: 1, timeoutSeconds: 5 },
            livenessProbe: { httpGet: { path: "/", port: 8080 }, periodSeconds: 2, timeoutSeconds: 5 },
            lifecycle: { preStop: { exec: { command: ["sh", "-c", "echo before the end > /proc/1/fd/1"] } } },
          },
          {
            name: "health",
            image: `${registry.host}/test/grpc-health:v1`,
            command: ["/grpc-health"],
            readinessProbe: { grpc: { port: 9000 }, periodSeconds: 1, timeoutSeconds: 5 },
            livenessProbe: { grpc: { port: 9000 }, periodSeconds: 2, timeoutSeconds: 5 },
          },
        ],
      },
    });
    const crasher = (): object => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "crasher", namespace: "default" },
      spec: {
        terminationGracePeriodSeconds: 1,
        containers: [
          {
            name: "ends",
            image: `${registry.host}/test/moving:v1`,
            imagePullPolicy: "Always",
            command: ["sh", "-c", "exit 3"],
          },
          {
            name: "sick",
            image,
            command: ["sleep", "100000"],
            livenessProbe: {
              exec: { command: ["false"] },
              periodSeconds: 1,
              failureThreshold: 1,
              timeoutSeconds: 5,
            },
          },
        ],
      },
    });
    const unsigned = (): object => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "unsigned", namespace: "default" },
      spec: {
        terminationGracePeriodSeconds: 1,
        containers: [{ name: "main", image: `${registry.host}/signed/app:v1`, command: ["sleep", "1000"] }],
      },
    });
    const fileLayer = (name: string, content: Buffer, mode = 0o644): Buffer => {
      writeFileSync(join(work, name), content, { mode });
      return execFileSync("tar", ["-C", work, "-cf", "-", name], { maxBuffer: 1 << 27 });
    };
    /** An image that no compression makes small. */
    const pushBig = (name: string, megabytes: number): Promise<string> =>
      pushImage(registry.url, name, "v1", [fileLayer("big", randomBytes(megabytes << 20))], {});
    const imageNames = (): string[] => {
      const { images }: { images: { repoTags: string[] }[] } = JSON.parse(
        crictl(daemon.socket, "images", "-o", "json").stdout,
      );
      return images
        .flatMap(({ repoTags }) => repoTags.map((tag) => tag.slice(registry.host.length + 1)))
        .sort();
    };
    /** Fails once in an init container and once in its container, then succeeds; its sidecar runs until then. */
    const job = (): object => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "job", namespace: "default" },
      spec: {
        restartPolicy: "OnFailure",
        terminationGracePeriodSeconds: 10,
        volumes: [{ name: "shared", emptyDir: {} }],
        initContainers: [
          {
            name: "sidecar",
            image,
            restartPolicy: "Always",
            command: ["sh", "-c", "trap 'exit 0' TERM; touch /shared/sidecar; sleep 100000 & wait"],
            startupProbe: {
              exec: { command: ["ls", "/shared/sidecar"] },
              periodSeconds: 1,
              timeoutSeconds: 5,
            },
            volumeMounts: [{ name: "shared", mountPath: "/shared" }],
          },
          {
            name: "prepare",
            image,
            command: [
              "sh",
              "-c",
              "ls /shared/sidecar && mkdir /shared/$(ls /shared | wc -l) && ls /shared/2",
            ],
            volumeMounts: [{ name: "shared", mountPath: "/shared" }],
          },
        ],
        containers: [
          {
            name: "work",
            image,
            command: ["sh", "-c", "mkdir /shared/first 2>/dev/null && { echo again; exit 4; }; echo done"],
            volumeMounts: [{ name: "shared", mountPath: "/shared" }],
          },
        ],
      },
    });
    const never = (): object => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "never", namespace: "default" },
      spec: {
        restartPolicy: "Never",
        containers: [{ name: "ends", image, command: ["sh", "-c", "exit 5"] }],
      },
    });
    const ready = async (): Promise<string> => {
      const { status } = await kubelet.pod("web");
      const isReady = status.conditions?.find(({ type }) => type === "Ready")?.status;
      assert.equal(isReady, "True", JSON.stringify(status));
      const main = status.containerStatuses?.find(({ name }) => name === "main");
      assert.ok(main?.containerID);
      return main.containerID;
    };

    before(async () => {
      snapshot = snapshotHost([]);
      registry = await startRegistry({ dir: join(work, "registry") });
      image = `${registry.host}/test/busybox:latest`;
      for (const [name, tag] of [
        ["test/busybox", "latest"],
        ["test/moving", "v1"],
        ["signed/app", "v1"],
      ] as const)
        await pushBusyboxImage(registry.url, name, tag);
      const health = fileLayer(
        "grpc-health",
        readFileSync(join(import.meta.dirname, "clients-kubelet/bin/grpc-health")),
        0o755,
      );
      await pushImage(registry.url, "test/grpc-health", "v1", [health], {});
      makeKey(work, "cosign");
      // A file system of its own: how full it is, is known.
      mkdirSync(imagesRoot, { recursive: true });
      execFileSync("mount", ["-t", "tmpfs", "-o", `size=${diskBytes}`, "tmpfs", imagesRoot]);
      cni = writeBridgeConf(join(work, "cni"));
      mkdirSync(volume);
      writeVersion("one");
      daemon = await start();
      port = await freePort();
      kubelet = new TestKubelet({ directory: join(work, "kubelet"), criSocket: daemon.socket, port });
      await kubelet.start();
    });
    const tearDown = async (): Promise<void> => {
      isDown = true;
      await kubelet.stop();
      crictl(daemon.socket, "rmp", "--all", "--force");
      await daemon.stop();
      await registry.stop();
      cni.remove();
      execFileSync("umount", [imagesRoot]);
      kubelet.removeLeftovers();
      rmSync(work, { recursive: true, force: true });
    };
    after(async () => {
      if (!isDown) await tearDown();
    });

    test("a static pod starts: init container, sidecar, all kinds of probes, its address", async () => {
      kubelet.writePod("web", manifest());
      kubelet.writePod("crasher", crasher());
      await eventually("the pod is ready", 90, ready);
      const { status } = await kubelet.pod("web");
      assert.equal(status.phase, "Running");
      assert.match(status.podIP ?? "", /^10\./);
      const init = status.initContainerStatuses?.find(({ name }) => name === "init");
      assert.equal(init?.state.terminated?.exitCode, 0);
      const sidecar = status.initContainerStatuses?.find(({ name }) => name === "sidecar");
      assert.ok(sidecar?.state.running);
      assert.equal(await kubelet.get("/containerLogs/default/web-node/init"), "init done\n");
      assert.equal(await kubelet.get("/containerLogs/default/web-node/main"), "started\n");
    });

    test("what ends or fails its liveness probe is started again", async () => {
      await eventually("both containers were started again", 60, async () => {
        const { status } = await kubelet.pod("crasher");
        for (const name of ["ends", "sick"]) {
          const found = status.containerStatuses?.find((one) => one.name === name);
          assert.ok((found?.restartCount ?? 0) >= 2, `${name}: ${JSON.stringify(found)}`);
        }
      });
    });

    test("imagePullPolicy Always: a tag that has moved is the next start's image", async () => {
      const imageOf = async (): Promise<string | undefined> =>
        (await kubelet.pod("crasher")).status.containerStatuses?.find(({ name }) => name === "ends")?.imageID;
      const before = await imageOf();
      await pushBusyboxImage(registry.url, "test/moving", "v1", [fileLayer("version", Buffer.from("2"))]);
      await eventually("the new image runs", 60, async () => assert.notEqual(await imageOf(), before));
      rmSync(kubelet.podPath("crasher"));
    });

    test("an image without the signature that the policy wants is not started, and the kubelet says why", async () => {
      kubelet.writePod("unsigned", unsigned());
      await eventually("the pod waits for its signature", 60, async () => {
        const { status } = await kubelet.pod("unsigned");
        const { reason, message } = status.containerStatuses?.[0]?.state.waiting ?? {};
        assert.equal(reason, "SignatureValidationFailed", JSON.stringify(status));
        assert.match(message ?? "", /signature validation failed: .*the policy wants a signature/);
      });
      rmSync(kubelet.podPath("unsigned"));
      assert.deepEqual(
        imageNames().filter((name) => name.startsWith("signed/")),
        [],
      );
    });

    // The store is the same for every handler.
    const onCrun = { skip: handler === "crun" ? false : "shown on crun" };
    test("image garbage collection: what is unused goes, what is pinned or used stays", onCrun, async () => {
      await kubelet.stop();
      await pushBig("test/unused", 40);
      await pushBig("test/pinned", 1);
      for (const name of ["unused", "pinned"]) {
        const pulled = crictl(daemon.socket, "pull", `${registry.host}/test/${name}:v1`);
        assert.equal(pulled.code, 0, pulled.stderr);
      }
      assert.ok(imageNames().includes("test/unused:v1"));
      await kubelet.start();
      await eventually("the unused images are removed", 90, () =>
        assert.deepEqual(imageNames(), ["test/busybox:latest", "test/grpc-health:v1", "test/pinned:v1"]),
      );
      await eventually("the pod is ready", 60, ready);
      const summary: { node: { runtime: { imageFs: Record<string, number> } } } = JSON.parse(
        await kubelet.get("/stats/summary"),
      );
      const { usedBytes = 0, capacityBytes = 0, availableBytes = 0 } = summary.node.runtime.imageFs;
      assert.equal(capacityBytes, diskBytes);
      assert.ok(availableBytes > 0.8 * capacityBytes, JSON.stringify(summary.node.runtime));
      assert.ok(
        usedBytes > 1 << 20 && usedBytes <= capacityBytes - availableBytes + (1 << 20),
        `${usedBytes}`,
      );
    });

    test("restart policies: OnFailure until init container and container succeed, the sidecar with them; Never", async () => {
      kubelet.writePod("job", job());
      kubelet.writePod("never", never());
      await eventually("the job has succeeded", 90, async () => {
        const { status } = await kubelet.pod("job");
        assert.equal(status.phase, "Succeeded", JSON.stringify(status));
        const exits = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])].map(
          ({ name, restartCount, state }) => [name, restartCount, state.terminated?.exitCode],
        );
        assert.deepEqual(exits, [
          ["sidecar", 0, 0],
          ["prepare", 1, 0],
          ["work", 1, 0],
        ]);
      });
      assert.equal(await kubelet.get("/containerLogs/default/job-node/work"), "done\n");
      await eventually("the other has failed", 60, async () => {
        const { status } = await kubelet.pod("never");
        assert.equal(status.phase, "Failed", JSON.stringify(status));
        const [ends] = status.containerStatuses ?? [];
        assert.deepEqual([ends?.restartCount, ends?.state.terminated?.exitCode], [0, 5]);
      });
      for (const name of ["job", "never"]) rmSync(kubelet.podPath(name));
    });

    test("port-forward: one connection after the other through the kubelet", async () => {
      const page = "GET /index.html HTTP/1.0\r\n\r\n";
      const path = "/portForward/default/web-node";
      for (const answer of await forwardThroughKubelet(port, path, 8080, [page, page, page]))
        assert.match(answer, /200 OK.*\r\n\r\nfrom init\n$/s);
      await assert.rejects(forwardThroughKubelet(port, path, 9, [page]), /port 9: .*refused/i);
    });

    test("exec by WebSocket: output, standard input and exit code", async () => {
      const query = "input=1&output=1&error=1&command=sh&command=-c&command=cat%3B%20exit%205";
      const socket = new WebSocket(
        `wss://127.0.0.1:${port}/exec/default/web-node/main?${query}`,
        ["v5.channel.k8s.io"],
        {
          rejectUnauthorized: false,
        },
      );
      const channels = new Map<number, string>();
      socket.on("message", (data: Buffer) => {
        const channel = data[0] ?? 0;
        channels.set(channel, (channels.get(channel) ?? "") + data.subarray(1).toString("utf8"));
      });
      await once(socket, "open");
      socket.send(Buffer.concat([Buffer.from([0]), Buffer.from("through the kubelet\n")]));
      socket.send(Buffer.from([255, 0]));
      await once(socket, "close");
      assert.equal(channels.get(1), "through the kubelet\n");
      assert.match(channels.get(3) ?? "", /"reason":"ExitCode","message":"5"/);
    });

    test("a volume's content changes in the container when it changes on the host", async () => {
      const read = (): Promise<string> =>
        kubelet.get("/run/default/web-node/main?cmd=cat%20/config/..data/key", "POST");
      assert.equal(await read(), "one");
      writeVersion("two");
      assert.equal(await read(), "two");
      const page = "/run/default/web-node/main?cmd=wget%20-qO-%20http://127.0.0.1:8080/";
      assert.equal(await kubelet.get(page, "POST"), "from init\n");
    });

    test("kubelet and daemon are restarted in any order: no container is", async () => {
      const before = await ready();
      await daemon.kill9();
      daemon = await start();
      await eventually("the pod is ready after the daemon's restart", 60, ready);
      await kubelet.stop();
      await kubelet.start();
      assert.equal(await eventually("the pod is ready after the kubelet's restart", 60, ready), before);
      await kubelet.stop();
      await daemon.kill9();
      daemon = await start();
      await kubelet.start();
      assert.equal(await eventually("the pod is ready after both", 60, ready), before);
      const { status } = await kubelet.pod("web");
      assert.deepEqual(
        status.containerStatuses?.map(({ restartCount }) => restartCount),
        [0, 0],
      );
    });

    test("termination: preStop, then TERM, and the last lines are in the log", async () => {
      const find = (): string => {
        const logs = join(work, "kubelet/logs");
        const [pod] = readdirSync(logs).filter((name) => name.startsWith("default_web-node_"));
        return readFileSync(join(logs, pod ?? "", "main", "0.log"), "utf8");
      };
      let last = find();
      rmSync(kubelet.podPath("web"));
      await eventually("the pod is gone", 60, () => {
        try {
          last = find();
        } catch {
          // The kubelet removes the log with the pod.
        }
        const pods: { items: { state: string }[] } = JSON.parse(
          crictl(daemon.socket, "pods", "-o", "json").stdout,
        );
        assert.deepEqual(
          pods.items.filter(({ state }) => state === "SANDBOX_READY"),
          [],
        );
      });
      assert.match(last, /before the end\n.* bye\n$/s);
    });

    test("the kubelet has no complaint of the runtime", () => {
      const complaints = kubelet.said
        .split("\n")
        .filter((line) =>
          /^E\d{4} .*(remote_runtime|remote_image|kuberuntime|pod_workers|runtime service failed)/.test(line),
        )
        .filter((line) => !harmless.test(line))
        // It is meant to: there is an image without a signature.
        .filter((line) => !/SignatureValidationFailed/.test(line))
        // While the daemon is down, it says so.
        .filter((line) => !/code = Unavailable/.test(line));
      assert.deepEqual(complaints, []);
    });

    test("no error is repeated in the kubelet's log but those that no runtime could prevent", () => {
      const counts = new Map<string, number>();
      for (const line of kubelet.said.split("\n")) {
        const text = /^E\d{4} \S+ +\d+ (.*)$/.exec(line)?.[1];
        if (text === undefined || harmless.test(text) || ofTheKubelet.test(text)) continue;
        // While the daemon is down, it says so; an image without a signature is meant to be complained of.
        if (/code = Unavailable|connection refused|SignatureValidationFailed/.test(text)) continue;
        const place = text.replace(/[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{13,64}/g, "ID").slice(0, 120);
        counts.set(place, (counts.get(place) ?? 0) + 1);
      }
      assert.deepEqual(
        [...counts].filter(([, count]) => count > 1),
        [],
      );
    });

    test("nothing is left on the host", async () => {
      await tearDown();
      assertNothingAdded(snapshot);
    });
  });
}
