/** Pods in networks of every kind of CNI chain, with plugins that know CNI 1.1; what the daemon asks of plugins, and says of them. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { cniToml } from "./support/cni.ts";
import { type PodInit, type TestContainer, TestCri } from "./support/cri-client.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import {
  diffSnapshots,
  firewall,
  formatDiff,
  isRuleOfPod,
  type Snapshot,
  snapshotHost,
} from "./support/leak-report.ts";
import { type RecordedCall, RecordingPlugin } from "./support/recording-plugin.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

const pluginDir = join(import.meta.dirname, "clients-cni/bin");
const work = mkdtempSync("/tmp/tb-");
const confDir = join(work, "net.d");
const leases = join(work, "leases");
const bridge = "tbchain0";
const mac = "0a:58:0a:09:08:07";
const hostPort = 28_080;
const v4 = { subnet: "10.61.7.0/24", gateway: "10.61.7.1" };
const v6 = { subnet: "fd61:7::/64", gateway: "fd61:7::1" };

let registry: TestRegistry;
let daemon: TestDaemon;
let cri: TestCri;
let recorder: RecordingPlugin;
let image = "";
let clean: Snapshot;

const ipam = (...ranges: (typeof v4)[]): object => ({
  type: "host-local",
  dataDir: leases,
  ranges: ranges.map((range) => [range]),
  routes: ranges.map(({ subnet }) => ({ dst: isIPv6(subnet.split("/")[0] ?? "") ? "::/0" : "0.0.0.0/0" })),
});
const bridgePlugin = (...ranges: (typeof v4)[]): object => ({
  type: "bridge",
  bridge,
  isGateway: true,
  ipam: ipam(...ranges),
});

/** The bridge without addresses that are tried out first (DAD), for which a host's first pod would have to wait. */
function makeBridge(): void {
  const ip = (text: string): void => {
    const { status, stderr } = spawnSync("ip", text.split(" "), { encoding: "utf8" });
    assert.equal(status, 0, `ip ${text}: ${stderr}`);
  };
  ip(`link add ${bridge} type bridge`);
  writeFileSync(`/proc/sys/net/ipv6/conf/${bridge}/accept_dad`, "0");
  ip(`addr add ${v4.gateway}/24 dev ${bridge}`);
  ip(`addr add ${v6.gateway}/64 dev ${bridge}`);
  ip(`link set ${bridge} up`);
}
function deleteBridge(): void {
  spawnSync("ip", ["link", "delete", bridge], { stdio: "ignore" });
}

/** Puts a file in the place of whatever there was, whole or not at all. */
function writeFileInto(name: string, content: object | string): void {
  for (const old of readdirSync(confDir)) if (old !== name) rmSync(join(confDir, old), { recursive: true });
  writeFileSync(join(work, "new"), typeof content === "string" ? content : JSON.stringify(content));
  renameSync(join(work, "new"), join(confDir, name));
}

const list = (cniVersion: string, plugins: readonly object[], more: object = {}): object => ({
  cniVersion,
  name: "chain",
  plugins,
  ...more,
});

async function ready(): Promise<{ isReady: boolean; reason: string; message: string }> {
  const { status } = await cri.runtime.callUnary("status", {});
  const found = status?.conditions.find(({ type }) => type === "NetworkReady");
  assert.ok(found);
  return { isReady: found.status, reason: found.reason, message: found.message };
}

/** A pod with a web server in it, and its addresses as CRI tells them. */
async function serve(
  handler: string,
  config: PodInit = cri.podConfig(),
): Promise<{ container: TestContainer; podId: string; ips: readonly string[] }> {
  const podId = await cri.runPod(handler, config);
  const { status } = await cri.runtime.callUnary("podSandboxStatus", { podSandboxId: podId });
  const { ip = "", additionalIps = [] } = status?.network ?? {};
  const container = await cri.start(podId, config, image, {
    command: ["sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"],
  });
  return { container, podId, ips: [ip, ...additionalIps.map((one) => one.ip)] };
}

/** Asks a server that may not listen yet: its container has only just been started. */
async function hello(address: string, port: number): Promise<string> {
  const host = isIPv6(address) ? `[${address}]` : address;
  for (let left = 50; ; left--) {
    try {
      return await (await fetch(`http://${host}:${port}/`)).text();
    } catch (cause) {
      const refused =
        cause instanceof Error &&
        /ECONNREFUSED|EHOSTUNREACH/.test(String(Reflect.get(cause.cause ?? {}, "code")));
      if (!refused || left === 0) throw cause;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

async function remove(podId: string): Promise<void> {
  await cri.runtime.callUnary("stopPodSandbox", { podSandboxId: podId });
  await cri.runtime.callUnary("removePodSandbox", { podSandboxId: podId });
}

/** That nothing of a pod's network is left: the chain's bridge is its plugin's, and stays. */
function assertClean(): void {
  const kinds = new Set(["namespaces", "network links", firewall]);
  const differences = diffSnapshots(clean, snapshotHost([])).map(({ kind, added, removed }) => ({
    kind,
    added: added.filter((line) => line !== bridge && (kind !== firewall || isRuleOfPod(line))),
    removed,
  }));
  const left = differences.filter(({ kind, added }) => kinds.has(kind) && added.length > 0);
  assert.deepEqual(left, [], formatDiff(clean, left));
  assert.deepEqual(
    readdirSync(join(leases, "chain")).filter((name) => /^[\da-f]+[.:]/.test(name)),
    [],
  );
}

const addressesIn = async (container: TestContainer): Promise<readonly string[]> =>
  [
    ...(await cri.output(container, "ip", "-o", "addr", "show", "dev", "eth0", "scope", "global")).matchAll(
      /inet6? ([\da-f.:]+)\//g,
    ),
  ].map(([, address = ""]) => address);
const fileIn = async (container: TestContainer, path: string): Promise<string> =>
  (await cri.output(container, "cat", path)).trim();

before(async () => {
  mkdirSync(confDir);
  recorder = new RecordingPlugin(join(work, "recorder"));
  registry = await startRegistry({ dir: join(work, "registry") });
  daemon = await start();
  cri = new TestCri(daemon.socket, work);
  image = `${registry.host}/test/busybox:latest`;
  await pushBusyboxImage(registry.url, "test/busybox", "latest");
  await cri.pull(image);
  clean = snapshotHost([]);
});
after(async () => {
  await cri.removePods();
  cri[Symbol.dispose]();
  await daemon.stop();
  await registry.stop();
  deleteBridge();
  rmSync(work, { recursive: true, force: true });
});

beforeEach(makeBridge);
afterEach(async () => {
  await cri.removePods();
  // With it goes what the host remembers of the pods' link addresses.
  deleteBridge();
});

function start(): Promise<TestDaemon> {
  return startDaemon({
    root: join(work, "root"),
    state: join(work, "run"),
    configToml: cniToml(confDir, [recorder.binDir, pluginDir]),
  });
}

const single = { cniVersion: "0.3.1", name: "chain", ...bridgePlugin(v4) };
const ptp = { type: "ptp", ipam: ipam(v4, v6) };
const chains: readonly (readonly [
  what: string,
  file: string,
  content: object,
  families: readonly number[],
  handlers: readonly string[],
])[] = [
  ["bridge, IPv4, one plugin in a .conf of 0.3.1", "10-a.conf", single, [4], ["crun"]],
  ["bridge, IPv6, 0.4.0", "10-a.conflist", list("0.4.0", [bridgePlugin(v6)]), [6], ["crun"]],
  ["ptp, both, 1.0.0", "10-a.conflist", list("1.0.0", [ptp]), [4, 6], ["crun", "firecracker"]],
  [
    "bridge and loopback, both, IPv6 first, 1.1.0 chosen of several",
    "10-a.conflist",
    list("0.3.1", [bridgePlugin(v6, v4), { type: "loopback" }], {
      cniVersions: ["0.4.0", "1.0.0", "1.1.0", "9.0.0"],
    }),
    [6, 4],
    ["crun"],
  ],
];

describe("chains", () => {
  for (const [what, file, content, families, handlers] of chains)
    for (const handler of handlers)
      test(`${what}: ${handler}`, async () => {
        writeFileInto(file, content);
        assert.deepEqual(await ready(), { isReady: true, reason: "", message: "" });
        const { container, podId, ips } = await serve(handler);
        assert.deepEqual(
          ips.map((ip) => (isIPv6(ip) ? 6 : 4)),
          families,
        );
        assert.deepEqual((await addressesIn(container)).toSorted(), ips.toSorted());
        for (const ip of ips) assert.equal(await hello(ip, 8080), "hello\n", ip);
        assert.equal(await fileIn(container, "/proc/sys/net/ipv6/conf/eth0/accept_ra"), "0");
        assert.match(await cri.output(container, "ip", "link", "show", "dev", "lo"), /LOOPBACK,UP/);
        // ptp's pods are not on a link with each other: what a guest's kernel thought of its subnet would lead nowhere.
        if (what.startsWith("ptp")) {
          const peer = await serve("crun");
          for (const ip of peer.ips) {
            assert.equal(await hello(ip, 8080), "hello\n");
            const get = `printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 ${ip} 8080`;
            assert.match(await cri.output(container, "sh", "-c", get), /hello\n$/, ip);
          }
          await remove(peer.podId);
        }
        await remove(podId);
        assertClean();
      });

  for (const handler of ["crun", "firecracker"])
    test(`bridge, portmap, bandwidth, tuning and firewall, 1.1.0: ${handler}`, async () => {
      const tuning = {
        type: "tuning",
        mac,
        mtu: 1380,
        sysctl: { "net.ipv4.conf.IFNAME.arp_ignore": "1", "net.core.somaxconn": "200" },
      };
      // A guest's device has no such flags that a plugin outside could set.
      const flags = handler === "crun" ? { promisc: true, allmulti: true } : {};
      writeFileInto(
        "10-a.conflist",
        list("1.1.0", [
          bridgePlugin(v4, v6),
          { type: "portmap", capabilities: { portMappings: true } },
          { type: "bandwidth", capabilities: { bandwidth: true } },
          { ...tuning, ...flags },
          { type: "firewall", backend: "iptables" },
        ]),
      );
      const config = cri.podConfig({
        annotations: { "kubernetes.io/ingress-bandwidth": "200M", "kubernetes.io/egress-bandwidth": "100M" },
        portMappings: [{ protocol: 0, containerPort: 8080, hostPort, hostIp: "" }],
      });
      const { container, podId, ips } = await serve(handler, config);
      for (const ip of ips) assert.equal(await hello(ip, 8080), "hello\n", ip);
      assert.equal(await hello(v4.gateway, hostPort), "hello\n");

      assert.equal(await fileIn(container, "/sys/class/net/eth0/address"), mac);
      assert.equal(await fileIn(container, "/sys/class/net/eth0/mtu"), "1380");
      assert.equal(await fileIn(container, "/proc/sys/net/ipv4/conf/eth0/arp_ignore"), "1");
      assert.equal(await fileIn(container, "/proc/sys/net/core/somaxconn"), "200");
      if (handler === "crun")
        assert.equal(Number(await fileIn(container, "/sys/class/net/eth0/flags")) & 0x300, 0x300);

      // Of both directions the limiter is on this side, and what the pod sends and gets goes through it.
      const limiters = JSON.parse(
        spawnSync("tc", ["-s", "-j", "qdisc", "show"], { encoding: "utf8" }).stdout,
      );
      const seen = limiters.filter(({ kind }: { kind: string }) => kind === "tbf");
      const rates = seen.map(({ options }: { options: { rate: number } }) => options.rate * 8);
      assert.deepEqual(
        rates.toSorted((a: number, b: number) => a - b),
        [100e6, 200e6],
      );
      for (const { bytes } of seen) assert.ok(bytes > 0);
      const rules = spawnSync("iptables-save", ["-t", "filter"], { encoding: "utf8" }).stdout;
      assert.match(rules, new RegExp(`-A CNI-FORWARD -s ${ips.find((ip) => !isIPv6(ip))}/32 `));

      // CHECK is asked when a daemon finds the pod again; all of the chain agrees, IPv6 or not.
      await daemon.stop();
      daemon = await start();
      await cri.runtime.callUnary("podSandboxStatus", { podSandboxId: podId });
      assert.equal(await hello(v4.gateway, hostPort), "hello\n");
      await remove(podId);
      assertClean();
      assert.doesNotMatch(daemon.said(), /not as it was made/);
    });

  test("what a guest cannot be given is refused", async () => {
    const plugins = (tuning: object): object =>
      list("1.1.0", [bridgePlugin(v4), { type: "tuning", ...tuning }]);
    for (const [tuning, message] of [
      [{ promisc: true }, /CNI network chain: tuning\.promisc true: a microVM's guest cannot/],
      [{ allmulti: true }, /tuning\.allmulti/],
      [{ txQLen: 500 }, /tuning\.txQLen 500/],
    ] as const) {
      writeFileInto("10-a.conflist", plugins(tuning));
      await assert.rejects(cri.runPod("firecracker"), message);
    }
    const routes = { ...ipam(v4), routes: [{ dst: "10.99.0.0/16", priority: 50 }] };
    writeFileInto(
      "10-a.conflist",
      list("1.1.0", [{ type: "bridge", bridge, isGateway: true, ipam: routes }]),
    );
    await assert.rejects(cri.runPod("firecracker"), /the route's priority 50/);
    assertClean();
  });
});

describe("what plugins are asked and told", () => {
  const recorded = (more: object = {}, capabilities: object = {}): object =>
    list(
      "1.1.0",
      [bridgePlugin(v4), { type: recorder.type, capabilities, own: ["kept"], "cni.dev/x": 1 }],
      more,
    );

  test("capabilities: what a plugin says it takes, as far as CRI has it", async () => {
    const all = [
      "portMappings",
      "bandwidth",
      "dns",
      "cgroupPath",
      "ipRanges",
      "io.kubernetes.cri.pod-annotations",
      "mac",
      "aliases",
    ];
    writeFileInto("10-a.conflist", recorded({}, Object.fromEntries(all.map((key) => [key, true]))));
    await cri.runtime.callUnary("updateRuntimeConfig", {
      runtimeConfig: { networkConfig: { podCidr: "10.61.8.0/24,fd61:8::/64" } },
    });
    await assert.rejects(
      cri.runtime.callUnary("updateRuntimeConfig", {
        runtimeConfig: { networkConfig: { podCidr: "10.61.8.0/33" } },
      }),
      /pod_cidr "10\.61\.8\.0\/33"/,
    );
    const annotations = { "kubernetes.io/egress-bandwidth": "1.5M", other: "x" };
    const config = cri.podConfig(
      {
        annotations,
        portMappings: [{ protocol: 1, containerPort: 53, hostPort: 28_053, hostIp: "10.61.7.1" }],
        dnsConfig: { servers: ["10.0.0.10"], searches: ["cluster.local"], options: ["ndots:5"] },
      },
      { cgroupParent: `/tb-cni-${process.pid}` },
    );
    const podId = await cri.runPod("crun", config);
    const [add] = recorder.calls("ADD");
    assert.ok(add);
    const { runtimeConfig, prevResult, ...rest } = add.input;
    assert.deepEqual(runtimeConfig, {
      portMappings: [{ hostPort: 28_053, containerPort: 53, protocol: "udp", hostIP: "10.61.7.1" }],
      bandwidth: { egressRate: 1_500_000, egressBurst: 1_500_000 },
      dns: { servers: ["10.0.0.10"], searches: ["cluster.local"], options: ["ndots:5"] },
      cgroupPath: `/tb-cni-${process.pid}`,
      ipRanges: [[{ subnet: "10.61.8.0/24" }], [{ subnet: "fd61:8::/64" }]],
      "io.kubernetes.cri.pod-annotations": annotations,
    });
    assert.ok(prevResult);
    assert.deepEqual(rest, { type: recorder.type, own: ["kept"], name: "chain", cniVersion: "1.1.0" });
    assert.equal(add.env["CNI_CONTAINERID"], podId);
    // DEL gets the same, whatever the configuration is by then, and the result of ADD.
    writeFileInto("10-a.conflist", list("1.1.0", [bridgePlugin(v6)]));
    await remove(podId);
    const [del] = recorder.calls("DEL");
    assert.deepEqual(del?.input["runtimeConfig"], runtimeConfig);
    assert.deepEqual(del?.input["prevResult"], prevResult);
    assertClean();
  });

  test("bandwidth annotations that are none are refused by name", async () => {
    writeFileInto("10-a.conflist", recorded({}, { bandwidth: true }));
    for (const wrong of ["", "fast", "-1M", "999", "2P", "1e99", "1M\n"])
      await assert.rejects(
        cri.runPod("crun", cri.podConfig({ annotations: { "kubernetes.io/ingress-bandwidth": wrong } })),
        /annotations\[kubernetes\.io\/ingress-bandwidth\] .*: bits per second from 1k to 1P/,
        wrong,
      );
  });

  test("STATUS: its error is NetworkReady's, with code, message and details; of older versions nothing is asked", async () => {
    writeFileInto("10-a.conflist", recorded());
    for (const code of [50, 51]) {
      recorder.fail("STATUS", { cniVersion: "1.1.0", code, msg: "no addresses left", details: "of 254" });
      const message = `CNI STATUS by ${recorder.type}: code ${code}: no addresses left: of 254`;
      assert.deepEqual(await ready(), { isReady: false, reason: "NetworkPluginNotReady", message });
    }
    assert.equal(recorder.calls("STATUS").at(-1)?.env["CNI_COMMAND"], "STATUS");
    // It is information: a pod is tried all the same.
    await remove(await cri.runPod("crun"));
    recorder.fail("STATUS", undefined);
    assert.equal((await ready()).isReady, true);
    const asked = recorder.calls("STATUS").length;
    writeFileInto("10-a.conflist", { ...recorded(), cniVersion: "1.0.0" });
    assert.equal((await ready()).isReady, true);
    assert.equal(recorder.calls("STATUS").length, asked);
  });

  test("GC: when the daemon starts, and after a DEL that fails, with the pods there are", async () => {
    writeFileInto("10-a.conflist", recorded());
    const [kept, failing] = [await cri.runPod("crun"), await cri.runPod("crun")];
    const validOf = (call: RecordedCall | undefined): unknown => {
      assert.deepEqual(call?.input["cni.dev/attachments"], call?.input["cni.dev/valid-attachments"]);
      const valid = call?.input["cni.dev/valid-attachments"];
      return Array.isArray(valid)
        ? valid.toSorted((a, b) => (a.containerID < b.containerID ? -1 : 1))
        : valid;
    };
    const attachments = (...ids: string[]): object =>
      ids.toSorted().map((containerID) => ({ containerID, ifname: "eth0" }));
    const next = async (count: number): Promise<void> => {
      while (recorder.calls("GC").length < count) await new Promise((resolve) => setTimeout(resolve, 50));
    };
    const before = recorder.calls("GC").length;
    await daemon.stop();
    daemon = await start();
    await next(before + 1);
    assert.deepEqual(validOf(recorder.calls("GC").at(-1)), attachments(kept, failing));

    recorder.fail("DEL", { code: 999, msg: "not now" });
    await assert.rejects(remove(failing), /CNI DEL by tb-recorder: code 999: not now/);
    await next(before + 2);
    assert.deepEqual(validOf(recorder.calls("GC").at(-1)), attachments(kept));
    recorder.fail("DEL", undefined);
    await remove(failing);

    // Forbidden, or not known to the version: asked of nobody. The journal's network of that name gives way to the file's.
    for (const network of [recorded({ disableGC: true }), { ...recorded(), cniVersion: "1.0.0" }]) {
      writeFileInto("10-a.conflist", network);
      await daemon.stop();
      daemon = await start();
      await remove(await cri.runPod("crun"));
    }
    assert.equal(recorder.calls("GC").length, before + 2);
    await remove(kept);
    assertClean();
  });
});

describe("the configuration", () => {
  test("a half-written file leaves the network before it in force, and NetworkReady says so", async () => {
    writeFileInto("10-a.conflist", list("1.1.0", [bridgePlugin(v4)]));
    assert.deepEqual(await ready(), { isReady: true, reason: "", message: "" });
    writeFileInto("10-a.conflist", JSON.stringify(list("1.1.0", [bridgePlugin(v6)])).slice(0, 80));
    const { isReady, reason, message } = await ready();
    assert.deepEqual([isReady, reason], [true, "NetworkConfigurationFault"]);
    assert.match(message, /10-a\.conflist: not JSON: .*; the network chain, read before, stays in force$/);
    const podId = await cri.runPod("crun");
    writeFileInto("10-a.conflist", list("1.1.0", [bridgePlugin(v6)]));
    assert.deepEqual(await ready(), { isReady: true, reason: "", message: "" });
    // The pod of the network before is taken down by what it was made with.
    await remove(podId);
    assertClean();
  });

  test("no file, or a plugin that is not there: no pod, and NetworkReady says why", async () => {
    writeFileInto("README", "");
    const none = await ready();
    assert.equal(none.isReady, false);
    assert.match(none.message, /^no CNI configuration in /);
    await assert.rejects(cri.runPod("crun"), /no CNI configuration in /);
    writeFileInto("10-a.conflist", list("1.1.0", [{ type: "cilium-cni" }]));
    const missing = await ready();
    assert.equal(missing.isReady, false);
    assert.match(missing.message, /CNI plugin cilium-cni is not in /);
  });
});
