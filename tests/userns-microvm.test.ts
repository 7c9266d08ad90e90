/** Pods with a user namespace in a microVM, and mounts with ids of their own: what their containers see, and what is on the host. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { pack } from "tar-stream";
import { NamespaceMode } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { type ContainerInit, type PodInit, type TestContainer, TestCri } from "./support/cri-client.ts";
import { stopCriStage } from "./support/cri-stage.ts";
import { crictlPath } from "./support/crictl.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

/** As critest has it: the pod's ids inside and outside overlap. */
const outside = 1000;
const map = [{ containerId: 0, hostId: outside, length: 100_000 }];
const nobody = 65_534;
const { POD } = NamespaceMode;
const userns = { namespaceOptions: { pid: POD, usernsOptions: { mode: POD, uids: map, gids: map } } };

describe("user namespaces in a microVM", () => {
  const work = mkdtempSync("/tmp/tb-");
  const host = (name: string): string => join(work, "host", name);
  const caps = join(work, "file-caps");
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let cri: TestCri;
  let image = "";
  let podId = "";
  let config: PodInit & { readonly logDirectory: string };
  let main: TestContainer;

  const start = (): Promise<TestDaemon> =>
    startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: cni.toml,
    });
  const run = (more: ContainerInit = {}): Promise<TestContainer> =>
    cri.start(podId, config, image, { linux: { securityContext: userns }, ...more });
  const sh = (container: TestContainer, script: string): Promise<string> =>
    cri.output(container, "sh", "-c", `{ ${script}\n} 2>&1; true`);
  const owner = (name: string): readonly number[] => {
    const { uid, gid } = statSync(host(name));
    return [uid, gid];
  };
  const make = (name: string, uid: number, gid: number, mode = 0o644): void => {
    writeFileSync(host(name), "content\n");
    chownSync(host(name), uid, gid);
    chmodSync(host(name), mode);
  };

  before(async () => {
    snapshot = snapshotHost([]);
    for (const name of ["plain", "mapped", "apart"]) mkdirSync(host(name), { recursive: true });
    execFileSync("cc", ["-O1", "-static", "-o", caps, join(import.meta.dirname, "volumes/file-caps.c")]);
    registry = await startRegistry({ dir: join(work, "registry") });
    image = `${registry.host}/test/owners:latest`;
    const layer = pack();
    layer.entry({ name: "owned", uid: 1234, gid: 5678, mode: 0o640 }, "owned\n");
    layer.entry({ name: "secret", mode: 0o600 }, "of root\n");
    layer.finalize();
    await pushBusyboxImage(registry.url, "test/owners", "latest", [await buffer(layer)]);
    cni = writeBridgeConf(join(work, "cni"));
    daemon = await start();
    cri = new TestCri(daemon.socket, work);
    await cri.pull(image);
    make("plain/of-host-root", 0, 0, 0o600);
    make("plain/of-pod-root", outside, outside, 0o600);
    make("plain/open", 0, 0, 0o666);
    make("mapped/of-root", 0, 0, 0o600);
    make("mapped/of-seven", 7, 8);
    make("mapped/of-nobody", 200_000, 200_000, 0o666);
    chownSync(host("plain"), outside, outside);
    const linux = { securityContext: userns, sysctls: { "kernel.shmmni": "99", "net.ipv4.ip_forward": "1" } };
    config = cri.podConfig({ hostname: "apart", linux });
    podId = await cri.runPod("firecracker", config);
    main = await run({
      command: ["sh", "-c", "readlink /proc/self/ns/user; cat /proc/self/uid_map; exec sleep 1000"],
      mounts: [
        { containerPath: "/plain", hostPath: host("plain") },
        { containerPath: "/mapped", hostPath: host("mapped"), uidMappings: map, gidMappings: map },
        { containerPath: "/image", image: { image }, readonly: true, uidMappings: map, gidMappings: map },
        { containerPath: "/part", image: { image }, imageSubPath: "etc", readonly: true },
      ],
    });
  });

  const tearDown = (): Promise<void> => stopCriStage(work, { registry, cni, daemon, cri });
  let isDown = false;
  after(async () => {
    if (!isDown) await tearDown();
  });

  test("the handler says that it has them, and the pod tells its maps back", async () => {
    const { runtimeHandlers } = await cri.runtime.callUnary("status", {});
    const features = runtimeHandlers.find(({ name }) => name === "firecracker")?.features;
    assert.equal(features?.userNamespaces, true);
    const { status } = await cri.runtime.callUnary("podSandboxStatus", { podSandboxId: podId });
    assert.equal(status?.linux?.namespaces?.options?.usernsOptions?.uids[0]?.hostId, outside);
  });

  test("maps are as asked, the image's owners are the image's, and the root file system can be written", async () => {
    const maps = await sh(main, "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '");
    assert.equal(maps, ` 0 ${outside} 100000\n`.repeat(2));
    const script = `id -u; stat -c %u:%g /bin/busybox /owned /etc/hosts /image/owned /part/passwd; cat /secret
      echo new >/etc/made; chown 5:6 /etc/made /owned; stat -c %u:%g /etc/made /owned; echo x >/image/x`;
    assert.equal(
      await sh(main, script),
      "0\n0:0\n1234:5678\n0:0\n1234:5678\n0:0\nof root\n5:6\n5:6\nsh: can't create /image/x: Read-only file system\n",
    );
  });

  test("its root has a namespace's capabilities over the pod's own things, and none over the guest's", async () => {
    const container = await run({
      linux: {
        securityContext: {
          ...userns,
          capabilities: { addCapabilities: ["ALL"] },
          maskedPaths: [],
          readonlyPaths: [],
        },
      },
    });
    const own = `hostname; cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_forward; hostname other && hostname
      mkdir /t; mount -t tmpfs t /t && echo mounted; ip link set lo down && ip link set lo up && echo network`;
    assert.equal(await sh(container, own), "apart\n99\n1\nother\nmounted\nnetwork\n");
    // A clock, a module, a device, the guest's own file systems
    const refused = `date -s 2000-01-01 | grep -v :; mknod /dev/x b 254 0 || echo no; mount -t cgroup none /t || echo no
      chroot /proc/1/root ls /init || echo no; insmod /x.ko || echo no`;
    assert.match(await sh(container, refused), /^date: .*not permitted\n(.*\nno\n){4}$/);
  });

  test("its root has the pod's network: ports below 1024, its address, port-forward", async () => {
    const { status } = await cri.runtime.callUnary("podSandboxStatus", { podSandboxId: podId });
    assert.ok((await sh(main, "ip addr")).includes(`inet ${status?.network?.ip}/`));
    assert.match(await sh(main, "ls /sys/class/net"), /^eth0\nlo\n/);
    assert.equal(await sh(main, "cat /proc/sys/net/ipv6/conf/eth0/accept_ra"), "0\n");
    const server = `nc -ll -p 80 -e echo served </dev/null >/dev/null 2>&1 &
      until netstat -ltn | grep -q ':80 '; do kill -0 $! || exit 1; done; echo listens`;
    assert.equal(await sh(main, server), "listens\n");
    const ask = async (port: number, address: string): Promise<string> =>
      (await buffer(createConnection(port, address))).toString();
    assert.equal(await ask(80, status?.network?.ip ?? ""), "served\n");
    const forward = spawn(
      crictlPath,
      ["--runtime-endpoint", `unix://${daemon.socket}`, "port-forward", podId, "18080:80"],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    try {
      await once(forward.stdout, "data");
      assert.equal(await ask(18080, "127.0.0.1"), "served\n");
    } finally {
      forward.kill();
      await once(forward, "exit");
    }
    const { stats } = await cri.runtime.callUnary("podSandboxStats", { podSandboxId: podId });
    const { name, rxBytes } = stats?.linux?.network?.defaultInterface ?? {};
    assert.equal(name, "eth0");
    assert.ok((rxBytes?.value ?? 0n) > 0n);
  });

  test("a volume without mappings has the host's ids: the pod's are its own, others nobody's", async () => {
    const seen = `cd /plain; stat -c %u:%g of-host-root of-pod-root open; cat of-host-root; cat of-pod-root
      echo written >open && cat open; chown 0 open; touch made; chown 3:4 made; mkdir below; stat -c %u:%g made`;
    assert.equal(
      await sh(main, seen),
      `${nobody}:${nobody}\n0:0\n${nobody}:${nobody}\ncat: can't open 'of-host-root': Permission denied\ncontent\nwritten\n` +
        "chown: open: Operation not permitted\n3:4\n",
    );
    assert.deepEqual(owner("plain/made"), [outside + 3, outside + 4]);
    assert.deepEqual(owner("plain/below"), [outside, outside]);
    assert.deepEqual(owner("plain/open"), [0, 0]);
  });

  test("a volume with mappings has the disk's ids, as an id-mapped mount has them", async () => {
    const seen = `cd /mapped; stat -c %u:%g of-root of-seven of-nobody; cat of-root; echo x >of-nobody; chown 0 of-nobody
      touch made; chown 3:4 made; ln -s x link; stat -c %u:%g made; chmod 4755 made; chown 5 made; stat -c %a made`;
    assert.equal(
      await sh(main, seen),
      `0:0\n7:8\n${nobody}:${nobody}\ncontent\nsh: can't create of-nobody: Permission denied\n` +
        "chown: of-nobody: Operation not permitted\n3:4\n755\n",
    );
    assert.deepEqual(owner("mapped/made"), [5, 4]);
    chownSync(host("mapped/made"), 99_999, 0);
    assert.equal(await sh(main, "stat -c %u /mapped/made"), "99999\n");
  });

  test("capabilities of a file count for the pod's root, not for the host's", async () => {
    for (const name of ["plain", "mapped"]) {
      execFileSync("cp", [caps, host(`${name}/caps`)]);
      const root = name === "plain" ? outside : 0;
      chownSync(host(`${name}/caps`), root, root);
    }
    const one = await run({
      linux: { securityContext: { ...userns, capabilities: { addCapabilities: ["SETFCAP"] } } },
      mounts: [
        { containerPath: "/plain", hostPath: host("plain") },
        { containerPath: "/mapped", hostPath: host("mapped"), uidMappings: map, gidMappings: map },
      ],
    });
    const words = "2000001 400 0";
    for (const name of ["plain", "mapped"])
      assert.equal(
        await sh(one, `/mapped/caps set /${name}/caps && /mapped/caps get /${name}/caps`),
        `20 ${words}\n`,
      );
    const onHost = (name: string): string =>
      execFileSync(caps, ["get", host(`${name}/caps`)], { encoding: "utf8" });
    assert.equal(onHost("plain"), `24 3000001 400 ${outside}\n`);
    assert.equal(onHost("mapped"), `20 ${words}\n`);
    const user = await run({
      linux: { securityContext: { ...userns, runAsUser: { value: 1234n } } },
      mounts: [
        { containerPath: "/plain", hostPath: host("plain") },
        { containerPath: "/mapped", hostPath: host("mapped"), uidMappings: map, gidMappings: map },
      ],
    });
    assert.equal(await sh(user, "/plain/caps mine; /mapped/caps mine"), "400\n400\n");
  });

  test("an exec is in the pod's user namespace, and so is a second container of the same image", async () => {
    const namespace = (container: TestContainer): Promise<string> =>
      sh(container, "readlink /proc/self/ns/user");
    const own = await namespace(main);
    assert.ok(readFileSync(main.logPath, "utf8").includes(` F ${own}`));
    const second = await run({ linux: { securityContext: { ...userns, readonlyRootfs: true } } });
    assert.equal(await namespace(second), own);
    const seen = await sh(
      second,
      "stat -c %u /owned; cat /secret; touch /x; touch /dev/shm/y && ls /dev/shm",
    );
    assert.equal(seen, "1234\nof root\ntouch: /x: Read-only file system\ny\n");
    const user = await run({
      linux: { securityContext: { ...userns, runAsUser: { value: 1234n }, runAsGroup: { value: 5678n } } },
    });
    assert.equal(
      await sh(user, "id -u; cat /owned; cat /secret"),
      "1234\nowned\ncat: can't open '/secret': Permission denied\n",
    );
    await assert.rejects(
      run({ linux: { securityContext: { ...userns, runAsUser: { value: 100_000n } } } }),
      /user 100000: not an id of the pod's user namespace/,
    );
    await cri.runtime.callUnary("stopContainer", { containerId: second.id, timeout: 0n });
    await cri.runtime.callUnary("removeContainer", { containerId: second.id });
  });

  test("a terminal, statistics and the log are there", async () => {
    const { stats } = await cri.runtime.callUnary("containerStats", { containerId: main.id });
    assert.ok(
      (stats?.memory?.usageBytes?.value ?? 0n) > 0n && (stats?.writableLayer?.inodesUsed?.value ?? 0n) > 0n,
    );
    assert.match(readFileSync(main.logPath, "utf8"), /stdout F +0 +1000 +100000\n/);
    const ownPid = { ...userns.namespaceOptions, pid: NamespaceMode.CONTAINER };
    const tty = await run({
      tty: true,
      stdin: true,
      linux: { securityContext: { namespaceOptions: ownPid } },
    });
    assert.match(await sh(tty, "ls -l /proc/1/fd/0; stat -c %u /dev/pts/0"), /\/dev\/pts\/0\n0\n/);
  });

  test("what does not fit is refused by its name", async () => {
    const other = [{ containerId: 0, hostId: 5, length: 10 }];
    const mount = { containerPath: "/x", image: { image }, readonly: true };
    await assert.rejects(
      run({ mounts: [{ ...mount, uidMappings: other, gidMappings: other }] }),
      /mounts\[0\]\.uidMappings of an image, which are not the pod's own/,
    );
    const twice = [...other, { containerId: 9, hostId: 100, length: 1 }];
    await assert.rejects(
      run({
        mounts: [{ containerPath: "/x", hostPath: host("apart"), uidMappings: twice, gidMappings: other }],
      }),
      /config\.mounts\[0\]\.uidMappings: 9 .*no other/,
    );
    for (const kind of ["network", "pid", "ipc"]) {
      const namespaceOptions = { ...userns.namespaceOptions, [kind]: NamespaceMode.NODE };
      await assert.rejects(
        cri.runPod("firecracker", cri.podConfig({ linux: { securityContext: { namespaceOptions } } })),
      );
    }
  });

  test("a daemon that starts again knows the pod's ids", async () => {
    cri[Symbol.dispose]();
    await daemon.kill9();
    daemon = await start();
    cri = new TestCri(daemon.socket, work);
    assert.equal(await sh(main, "id -u; stat -c %u /plain/of-pod-root"), "0\n0\n");
    const again = await run({
      mounts: [
        { containerPath: "/apart", hostPath: host("apart"), uidMappings: map, gidMappings: map },
        { containerPath: "/plain", hostPath: host("plain") },
        { containerPath: "/ro", hostPath: host("apart"), readonly: true, recursiveReadOnly: true },
      ],
    });
    assert.equal(await sh(again, "touch /ro/x"), "touch: /ro/x: Read-only file system\n");
    assert.equal(await sh(again, "touch /apart/x /plain/x; stat -c %u /apart/x /plain/x"), "0\n0\n");
    assert.deepEqual(
      [owner("apart/x"), owner("plain/x")],
      [
        [0, 0],
        [outside, outside],
      ],
    );
    await cri.runtime.callUnary("removeContainer", { containerId: again.id });
    const [sandbox] = readdirSync(join(work, "root/microvm/sandboxes"));
    const journal = join(work, "root/microvm/sandboxes", sandbox ?? "", "volumes.json");
    const { server, volumes } = JSON.parse(readFileSync(journal, "utf8"));
    const served = volumes.map(({ id }: { id: string }) => id).toSorted();
    for (const name of ["volumes", "maps"])
      assert.deepEqual(readdirSync(`/proc/${server.pid}/root/${name}`).toSorted(), served);
  });

  test("a mount of a pod without a user namespace can have mappings as well", async () => {
    const config = cri.podConfig();
    const podId = await cri.runPod("firecracker", config);
    const hostPath = host("apart");
    const some = [{ containerId: 0, hostId: 500, length: 10 }];
    const one = await cri.start(podId, config, image, {
      mounts: [
        { containerPath: "/apart", hostPath, uidMappings: some, gidMappings: some },
        { containerPath: "/as-it-is", hostPath },
      ],
    });
    const seen = `stat -c %u:%g /apart/x /as-it-is/x; touch /apart/y; chown 500:501 /apart/x; stat -c %u:%g /as-it-is/x
      chown 510 /apart/x`;
    assert.equal(
      await sh(one, seen),
      "500:500\n0:0\ntouch: /apart/y: Value too large for defined data type\n0:1\nchown: /apart/x: Value too large for defined data type\n",
    );
    await cri.runtime.callUnary("removePodSandbox", { podSandboxId: podId });
  });

  test("nothing is left on the host", async () => {
    await tearDown();
    isDown = true;
    assertNothingAdded(snapshot);
  });
});
