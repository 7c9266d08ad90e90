/** Pod networks with the real CNI plugins and the real kernel; needs root and /usr/lib/cni. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createLogger } from "../base/log.ts";
import type { NetworkService, PodNetworkRequest } from "./contract.ts";
import { createNetworkService } from "./network-service.ts";

const pluginDir = "/usr/lib/cni";
const skip =
  process.getuid?.() !== 0 || !existsSync(`${pluginDir}/bridge`) ? "needs root and CNI plugins" : false;
const directory = mkdtempSync(join(tmpdir(), "tb-net-"));
const bridge = `tbn${process.pid}`.slice(0, 15);
const confDir = join(directory, "net.d");
const logger = createLogger({ level: "error", format: "text" });
const subnet = `10.${200 + (process.pid % 50)}.${process.pid % 250}`;

after(async () => {
  const service = await open();
  for (const id of await service.known()) await service.tearDown(id);
  try {
    execFileSync("ip", ["link", "del", bridge], { stdio: "ignore" });
  } catch {
    // never made
  }
  rmSync(directory, { recursive: true, force: true });
});

function writeConfig(bridgeType = "bridge", ipMasq = true): void {
  mkdirSync(confDir, { recursive: true });
  const plugins = [
    {
      type: bridgeType,
      bridge,
      isGateway: true,
      ipMasq,
      mtu: 1400,
      ipam: {
        type: "host-local",
        ranges: [[{ subnet: `${subnet}.0/24` }]],
        routes: [{ dst: "0.0.0.0/0" }],
        dataDir: join(directory, "leases"),
      },
    },
    { type: "portmap", capabilities: { portMappings: true }, snat: false },
  ];
  writeFileSync(
    join(confDir, "10-test.conflist"),
    JSON.stringify({ cniVersion: "1.0.0", name: bridge, plugins }),
  );
}

const open = (): Promise<NetworkService> =>
  createNetworkService({
    confDir,
    binDirs: [pluginDir],
    rootDir: join(directory, "root"),
    stateDir: join(directory, "state"),
    logger,
  });

const request = (sandboxId: string, withTap: boolean): PodNetworkRequest => ({
  sandboxId,
  podName: "web",
  podNamespace: "default",
  podUid: "u-1",
  portMappings: [{ protocol: "tcp", containerPort: 80, hostPort: 20000 + (process.pid % 10000), hostIp: "" }],
  withTap,
});

/** Everything of ours that a leak would show in. */
function traces(sandboxId: string): readonly string[] {
  const leases = join(directory, "leases", bridge);
  const ports = existsSync(`/sys/class/net/${bridge}/brif`)
    ? readdirSync(`/sys/class/net/${bridge}/brif`)
    : [];
  const rules = execFileSync("iptables-save", ["-t", "nat"], { encoding: "utf8" });
  return [
    ...readdirSync("/run/netns").filter((name) => name.includes(sandboxId)),
    ...ports,
    ...(existsSync(leases) ? readdirSync(leases).filter((name) => name.startsWith(subnet)) : []),
    ...rules.split("\n").filter((line) => line.includes(sandboxId)),
    ...readdirSync(join(directory, "root")),
  ];
}

const ip = (netns: string, ...args: string[]): string =>
  execFileSync("ip", ["-n", netns, ...args], { encoding: "utf8" });

for (const withTap of [false, true]) {
  test(`setUp, tearDown: a pod ${withTap ? "with" : "without"} a tap has a network and then leaves nothing`, {
    skip,
  }, async () => {
    writeConfig();
    const service = await open();
    assert.deepEqual(await service.status(), { isReady: true, message: "" });
    const id = `t${process.pid}${withTap ? "tap" : "veth"}`;
    const network = await service.setUp(request(id, withTap), AbortSignal.timeout(30_000));
    const [eth0] = network.interfaces;
    assert.match(network.ips[0] ?? "", new RegExp(`^${subnet.replaceAll(".", "\\.")}\\.`));
    assert.deepEqual(eth0?.addresses, [`${network.ips[0]}/24`]);
    assert.deepEqual(eth0?.routes, [{ destination: "0.0.0.0/0", gateway: `${subnet}.1` }]);
    assert.equal(eth0?.mtu, 1400);
    assert.equal(eth0?.tap, withTap ? "tap0" : undefined);
    assert.match(eth0?.mac ?? "", /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/);
    const netns = network.netnsPath.replace("/run/netns/", "");
    assert.equal(ip(netns, "addr", "show", "dev", "eth0").includes("inet "), !withTap);
    if (withTap) {
      assert.match(ip(netns, "link", "show", "dev", "tap0"), /mtu 1400/);
      const filters = execFileSync("tc", ["-n", netns, "filter", "show", "dev", "eth0", "ingress"], {
        encoding: "utf8",
      });
      assert.match(filters, /Redirect to device tap0/);
    } else {
      execFileSync("ip", ["netns", "exec", netns, "busybox", "ping", "-c1", "-W2", `${subnet}.1`], {
        stdio: "ignore",
      });
    }
    assert.ok(
      traces(id).some((line) => line.includes("--dport")),
      "the host port is mapped",
    );
    await assert.rejects(service.setUp(request(id, withTap), AbortSignal.timeout(30_000)), {
      code: "EXISTS",
    });
    await service.tearDown(id);
    await service.tearDown(id);
    assert.deepEqual(traces(id), []);
  });
}

test("tearDown: another process than the one that was cut short during ADD cleans up after it", {
  skip,
}, async () => {
  writeConfig();
  const id = `k${process.pid}`;
  await (await open()).setUp(request(id, false), AbortSignal.timeout(30_000));
  // As the journal stands until ADD has returned: no result, no interfaces.
  const path = join(directory, "root", `${id}.json`);
  const { result: _, ...entry } = JSON.parse(readFileSync(path, "utf8"));
  writeFileSync(path, JSON.stringify({ ...entry, interfaces: [] }));
  // The configuration that is in force by then is another.
  rmSync(join(confDir, "10-test.conflist"));
  const service = await open();
  assert.match((await service.status()).message, /no CNI configuration/);
  assert.deepEqual(await service.known(), [id]);
  await service.tearDown(id);
  assert.deepEqual(
    traces(id).filter((line) => !line.includes("MASQUERADE")),
    [],
  );
});

test("tearDown: with only a journal, as after a reboot, the lease goes", { skip }, async () => {
  // Rules of the firewall do not survive a reboot; here they would.
  writeConfig("bridge", false);
  const id = `r${process.pid}`;
  await (await open()).setUp(request(id, false), AbortSignal.timeout(30_000));
  execFileSync("ip", ["netns", "delete", `tb-${id}`]);
  await (await open()).tearDown(id);
  assert.deepEqual(
    traces(id).filter((line) => !/^-A|^:/.test(line)),
    [],
  );
});

for (const withTap of [false, true]) {
  test(`a chain of bridge, portmap, firewall and tuning, ${withTap ? "with" : "without"} a tap: ADD, CHECK, DEL`, {
    skip,
  }, async () => {
    writeConfig();
    const path = join(confDir, "10-test.conflist");
    const conflist = JSON.parse(readFileSync(path, "utf8"));
    conflist.plugins.push(
      { type: "firewall", backend: "iptables" },
      { type: "tuning", sysctl: { "net.ipv4.conf.eth0.arp_ignore": "1" } },
    );
    writeFileSync(path, JSON.stringify(conflist));
    // Only the first file counts, by name.
    writeFileSync(join(confDir, "20-other.conflist"), "{");
    const service = await open();
    const id = `c${process.pid}${withTap ? "tap" : "veth"}`;
    // No host port: portmap's own CHECK wants IPv6 rules for it even of a pod without IPv6.
    const asked = { ...request(id, withTap), portMappings: [] };
    const network = await service.setUp(asked, AbortSignal.timeout(30_000));
    const netns = network.netnsPath.replace("/run/netns/", "");
    const filters = (): string => execFileSync("iptables-save", ["-t", "filter"], { encoding: "utf8" });
    assert.match(filters(), new RegExp(`-A CNI-FORWARD -s ${network.ips[0]}/32 `));
    assert.equal(
      execFileSync("ip", ["netns", "exec", netns, "cat", "/proc/sys/net/ipv4/conf/eth0/arp_ignore"], {
        encoding: "utf8",
      }),
      "1\n",
    );
    // The result is kept: another process than the one of ADD checks against it.
    const other = await open();
    await other.check(id);
    if (!withTap) {
      ip(netns, "addr", "flush", "dev", "eth0");
      await assert.rejects(other.check(id), { code: "CNI", message: /^CNI CHECK by bridge: / });
    }
    await other.tearDown(id);
    assert.deepEqual(traces(id), []);
    assert.doesNotMatch(filters(), new RegExp(`${network.ips[0]}/32`));
    await assert.rejects(other.check(id), { code: "NOT_FOUND" });
    rmSync(join(confDir, "20-other.conflist"));
  });
}

test("check: nothing is asked of a network that forbids it, or is older than CHECK", { skip }, async () => {
  for (const [n, change] of [{ disableCheck: true }, { cniVersion: "0.3.1" }].entries()) {
    writeConfig();
    const path = join(confDir, "10-test.conflist");
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...change }));
    const service = await open();
    const id = `n${process.pid}${n}`;
    const network = await service.setUp(request(id, false), AbortSignal.timeout(30_000));
    ip(network.netnsPath.replace("/run/netns/", ""), "addr", "flush", "dev", "eth0");
    await service.check(id);
    await service.tearDown(id);
  }
});

test("setUp: a plugin that fails leaves nothing", { skip }, async () => {
  writeConfig("ptp-that-is-missing");
  const service = await open();
  assert.match((await service.status()).message, /ptp-that-is-missing/);
  const id = `f${process.pid}`;
  await assert.rejects(service.setUp(request(id, false), AbortSignal.timeout(30_000)), { code: "CNI" });
  writeConfig("portmap");
  await assert.rejects(service.setUp(request(id, false), AbortSignal.timeout(30_000)), { code: "CNI" });
  assert.deepEqual(traces(id), []);
});
