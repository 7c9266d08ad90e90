/** CDI devices on every kind of handler: what their files say is in the container. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { pack } from "tar-stream";
import { NamespaceMode } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { pushImage } from "./support/busybox-image.ts";
import type { TestCni } from "./support/cni.ts";
import type { ContainerInit, TestContainer, TestCri } from "./support/cri-client.ts";
import { startCriStage, stopCriStage } from "./support/cri-stage.ts";
import type { TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import type { TestRegistry } from "./support/test-registry.ts";

const ownPid = { namespaceOptions: { pid: NamespaceMode.CONTAINER } };

async function labelledImage(registry: TestRegistry): Promise<string> {
  const tar = pack();
  tar.entry({ name: "bin/busybox", mode: 0o755 }, readFileSync("/bin/busybox"));
  tar.finalize();
  const config = { Labels: { "cdi.k8s.io/label": "vendor.com/class=all" } };
  await pushImage(registry.url, "test/labelled", "latest", [await buffer(tar)], config);
  return `${registry.host}/test/labelled:latest`;
}

describe("CDI devices", () => {
  const work = mkdtempSync("/tmp/tb-");
  const specs = join(work, "specs");
  const above = join(work, "above");
  const hooked = join(work, "hooked");
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let cri: TestCri;
  let image = "";
  let loop = "";

  const writeSpec = (
    name: string,
    devices: Readonly<Record<string, object>>,
    containerEdits: object = {},
    directory = specs,
  ): void => {
    const list = Object.entries(devices).map(([device, edits]) => ({ name: device, containerEdits: edits }));
    const kind = `vendor.com/${name}`;
    const file = { cdiVersion: "0.7.0", kind, devices: list, containerEdits };
    writeFileSync(join(directory, `${name}.json`), JSON.stringify(file));
  };

  before(async () => {
    snapshot = snapshotHost([]);
    for (const path of [specs, above, join(work, "library")]) mkdirSync(path);
    chmodSync(work, 0o755);
    writeFileSync(join(work, "library/lib.so"), "a driver\n");
    writeFileSync(join(work, "device.img"), Buffer.alloc(1 << 20, "on the device\n"));
    loop = execFileSync("losetup", ["--find", "--show", join(work, "device.img")], {
      encoding: "utf8",
    }).trim();
    writeSpec(
      "class",
      {
        all: {
          env: ["CDI_DEVICE=all", "SHARED=device"],
          deviceNodes: [
            { path: "/dev/cdi-null", hostPath: "/dev/null", permissions: "r", fileMode: 0o640, gid: 9 },
            { path: "/dev/cdi-own", type: "c", major: 1, minor: 5, permissions: "rw" },
          ],
          mounts: [
            {
              hostPath: join(work, "library"),
              containerPath: "/usr/lib/cdi",
              options: ["ro", "nosuid", "bind"],
            },
            { hostPath: "tmpfs", containerPath: "/usr/lib/cdi-tmp", type: "tmpfs", options: ["size=4k"] },
          ],
          hooks: [
            {
              hookName: "createRuntime",
              path: "/bin/sh",
              args: ["sh", "-c", `cat >>${hooked}; echo "$HOOK" >>${hooked}`],
              env: ["HOOK=ran", "PATH=/usr/bin:/bin"],
              timeout: 10,
            },
          ],
          additionalGids: [0, 4321],
        },
        other: { env: ["CDI_OTHER=1"] },
        block: {
          env: ["BLOCK=/dev/cdi"],
          deviceNodes: [{ path: "/dev/cdi", hostPath: loop, permissions: "r" }],
        },
        character: { deviceNodes: [{ path: "/dev/cdi", hostPath: "/dev/null" }] },
        absent: { deviceNodes: [{ path: "/dev/not-there" }] },
        unmounted: { mounts: [{ hostPath: join(work, "not-there"), containerPath: "/x" }] },
        failing: { hooks: [{ hookName: "createRuntime", path: "/bin/false" }] },
        rdt: { intelRdt: { closID: "x" } },
      },
      { env: ["CDI_FILE=once"] },
    );
    const settings = `cdi_spec_dirs = ${JSON.stringify([specs, above])}\n`;
    ({ registry, cni, daemon, cri, image } = await startCriStage(work, { settings }));
  });
  let isDown = false;
  const tearDown = async (): Promise<void> => {
    await stopCriStage(work, { registry, cni, daemon, cri });
    execFileSync("losetup", ["--detach", loop]);
  };
  after(async () => {
    if (!isDown) await tearDown();
  });

  const devices = (...names: string[]): ContainerInit => ({
    CDIDevices: names.map((name) => ({ name: `vendor.com/class=${name}` })),
  });
  const sh = async (container: TestContainer, script: string): Promise<string> => {
    const { stdout } = await cri.exec(container, "sh", "-c", `exec 2>&1; ${script}`);
    return Buffer.from(stdout).toString();
  };

  for (const handler of ["crun", "runc", "firecracker"])
    describe(handler, () => {
      let config: ReturnType<TestCri["podConfig"]>;
      let podId = "";
      before(async () => {
        config = cri.podConfig();
        podId = await cri.runPod(handler, config);
      });
      after(async () => {
        await cri.removePods();
      });
      const run = (more: ContainerInit): Promise<TestContainer> => cri.start(podId, config, image, more);
      const refuses = (more: ContainerInit, why: RegExp): Promise<void> =>
        assert.rejects(cri.create(podId, config, image, more), why);

      if (handler === "firecracker") {
        test("variables and a block device, which is a drive; anything else is refused by name", async () => {
          const container = await run(devices("block", "other"));
          const env = await cri.output(container, "env");
          for (const one of ["BLOCK=/dev/cdi", "CDI_OTHER=1", "CDI_FILE=once"])
            assert.match(env, new RegExp(one));
          assert.equal(await sh(container, "head -n 1 /dev/cdi"), "on the device\n");
          assert.match(await sh(container, ": >>/dev/cdi"), /not permitted/);
          await refuses(
            devices("other", "all"),
            /vendor\.com\/class=other, vendor\.com\/class=all: mounts: not possible in a microVM/,
          );
          await refuses(devices("failing"), /vendor\.com\/class=failing: hooks: not possible in a microVM/);
          await refuses(
            devices("character"),
            /vendor\.com\/class=character: deviceNodes \/dev\/cdi "\/dev\/null": a character device/,
          );
        });
        return;
      }

      test("variables, devices, mounts, hooks and groups are there", async () => {
        const container = await run({
          ...devices("all", "other", "all"),
          envs: [{ key: "SHARED", value: "request" }],
          mounts: [{ containerPath: "/usr", hostPath: join(work, "library") }],
          linux: { securityContext: { ...ownPid, runAsUser: { value: 77n }, runAsGroup: { value: 78n } } },
        });
        const env = (await cri.output(container, "env")).split("\n");
        for (const one of ["CDI_DEVICE=all", "CDI_OTHER=1", "SHARED=device", "CDI_FILE=once"])
          assert.ok(env.includes(one), `${one} is not in ${env.join(" ")}`);
        assert.equal(await sh(container, "stat -c '%t:%T %a %u:%g' /dev/cdi-null"), "1:3 640 77:9\n");
        assert.equal(await sh(container, "stat -c '%t:%T %u:%g' /dev/cdi-own"), "1:5 77:78\n");
        assert.equal(await sh(container, "head -c 2 /dev/cdi-own | od -An -tx1"), " 00 00\n");
        assert.equal(await sh(container, "cat /usr/lib/cdi/lib.so"), "a driver\n");
        assert.match(await sh(container, "touch /usr/lib/cdi/x"), /Read-only/);
        assert.match(await sh(container, "grep cdi-tmp /proc/mounts"), /^tmpfs .*\bsize=4k/m);
        assert.match(await sh(container, "id -G"), /\b4321\b/);
        const said = readFileSync(hooked, "utf8");
        assert.match(said, new RegExp(`"id":"${container.id}"`));
        assert.equal(said.match(/\}ran$/gm)?.length, 1, said);
        rmSync(hooked);
        rmSync(join(work, "library/lib"), { recursive: true, force: true });
      });

      test("what is not permitted to a device fails, and a device of one container is none of another's", async () => {
        const permitted = await run(devices("block"));
        assert.equal(await sh(permitted, "head -n 1 /dev/cdi"), "on the device\n");
        assert.match(await sh(permitted, ": >>/dev/cdi"), /not permitted/);
        const without = await run({});
        const minor = loop.replace("/dev/loop", "");
        assert.match(await sh(without, `mknod /tmp/x b 7 ${minor} && cat /tmp/x`), /not permitted/);
        assert.doesNotMatch(await sh(without, "env; ls /dev"), /cdi/i);
      });

      test("a user namespace's pod has devices at the host's paths only", async () => {
        const why = /devices\.container_path \/dev\/cdi: in a pod with a user namespace/;
        const ids = [{ hostId: 200_000, containerId: 0, length: 65_536 }];
        const usernsOptions = { mode: NamespaceMode.POD, uids: ids, gids: ids };
        const namespaceOptions = { pid: NamespaceMode.CONTAINER, usernsOptions };
        const mapped = cri.podConfig({ linux: { securityContext: { namespaceOptions } } });
        chmodSync(work, 0o755);
        const id = await cri.runPod(handler, mapped);
        const security = { linux: { securityContext: { namespaceOptions } } };
        await assert.rejects(cri.create(id, mapped, image, { ...devices("block"), ...security }), why);
      });
    });

  describe("names and files", () => {
    let config: ReturnType<TestCri["podConfig"]>;
    let podId = "";
    before(async () => {
      config = cri.podConfig();
      podId = await cri.runPod("crun", config);
    });
    const create = (more: ContainerInit): Promise<TestContainer> => cri.create(podId, config, image, more);
    const refuses = (more: ContainerInit, why: RegExp): Promise<void> => assert.rejects(create(more), why);
    const annotated = (value: string): ContainerInit => ({ annotations: { "cdi.k8s.io/plugin_7": value } });
    const info = async (): Promise<{ devices: string[]; problems: string[]; specDirs: string[] }> => {
      const { info: all } = await cri.runtime.callUnary("status", { verbose: true });
      return JSON.parse(all["cdi"] ?? "");
    };

    test("annotations name devices as well; an image's labels do not", async () => {
      const container = await cri.start(podId, config, image, annotated("vendor.com/class=other"));
      assert.match(await cri.output(container, "env"), /CDI_OTHER=1/);
      const labelled = await labelledImage(registry);
      await cri.pull(labelled);
      const plain = await cri.start(podId, config, labelled, { command: ["/bin/busybox", "sleep", "1000"] });
      assert.doesNotMatch(await cri.output(plain, "/bin/busybox", "env"), /CDI/);
    });

    test("what is not there is refused by name, with where it was looked for", async () => {
      await refuses(
        devices("nothing"),
        new RegExp(`config\\.CDI_devices\\[0\\]\\.name: "vendor.com/class=nothing": .*${specs}, ${above}`),
      );
      await refuses(annotated("vendor.com/class=nothing"), /config\.annotations\["cdi\.k8s\.io\/plugin_7"\]/);
      await refuses({ CDIDevices: [{ name: "nothing" }] }, /config\.CDI_devices\[0\]\.name: "nothing"/);
      await refuses(
        devices("absent"),
        /CDI device vendor\.com\/class=absent: deviceNodes \/dev\/not-there: .* is not a device/,
      );
      await refuses(
        devices("unmounted"),
        /CDI device vendor\.com\/class=unmounted: mounts \/x: .*not-there is not there/,
      );
      await refuses(devices("rdt"), /containerEdits\.intelRdt of class\.json is not supported/);
    });

    test("a hook that fails is the container's failure, and leaves none", async () => {
      await refuses(devices("failing"), /hook/i);
      const { containers } = await cri.runtime.callUnary("listContainers", {
        filter: { podSandboxId: podId },
      });
      assert.equal(containers.length, 2);
    });

    test("files count as they are when the container is made; the later directory wins", async () => {
      const env = async (): Promise<string> =>
        cri.output(
          await cri.start(podId, config, image, { CDIDevices: [{ name: "vendor.com/new=d" }] }),
          "env",
        );
      await assert.rejects(env(), /there is no such CDI device/);
      writeSpec("new", { d: { env: ["FROM=below"] } });
      assert.match(await env(), /FROM=below/);
      writeSpec("new", { d: { env: ["FROM=above"] } }, {}, above);
      assert.match(await env(), /FROM=above/);
      chmodSync(join(above, "new.json"), 0o666);
      assert.match(await env(), /FROM=below/);
      assert.match((await info()).problems.join(), /above\/new\.json: others than root may write/);
    });

    test("Status tells people what there is", async () => {
      const { devices: known, specDirs } = await info();
      assert.ok(known.includes("vendor.com/class=all"), known.join());
      assert.deepEqual(specDirs, [specs, above]);
    });
  });

  test("nothing is left", async () => {
    await tearDown();
    isDown = true;
    assert.equal(existsSync(work), false);
    assertNothingAdded(snapshot);
  });
});
