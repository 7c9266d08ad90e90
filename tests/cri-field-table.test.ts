/**
 * Every field of PodSandboxConfig and ContainerConfig, on each handler, by its effect; docs/cri-fields.md is made of what was seen.
 *   CRI_FIELDS_WRITE=1 node --test tests/cri-field-table.test.ts   writes the page, which otherwise has to be as it is committed
 */
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { pack } from "tar-stream";
import {
  ContainerConfigSchema,
  PodSandboxConfigSchema,
} from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { containerRows } from "./cri-fields/container-rows.ts";
import { leafPaths } from "./cri-fields/field-paths.ts";
import { namespaceRows } from "./cri-fields/namespace-rows.ts";
import { podRows } from "./cri-fields/pod-rows.ts";
import { refusedRows } from "./cri-fields/refused-rows.ts";
import { resourceRows } from "./cri-fields/resource-rows.ts";
import { type Handler, placeOf, type Row } from "./cri-fields/row.ts";
import { cgroupDirectories, Scene, type Stage } from "./cri-fields/scene.ts";
import { securityRows } from "./cri-fields/security-rows.ts";
import { page, withTable } from "./cri-fields/table.ts";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { TestCri } from "./support/cri-client.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import {
  diffSnapshots,
  firewall,
  formatDiff,
  isRuleOfPod,
  type Snapshot,
  snapshotHost,
} from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

const rows: readonly Row[] = [
  ...podRows,
  ...containerRows,
  ...resourceRows,
  ...namespaceRows,
  ...securityRows,
  ...refusedRows,
];
const handlers: readonly Handler[] = ["crun", "runc", "firecracker"];
const rowsOf = (handler: Handler): readonly Row[] =>
  rows.filter(({ on }) => on === undefined || on === placeOf(handler));
const fields = [PodSandboxConfigSchema, ContainerConfigSchema].flatMap((type) => leafPaths(type));
/** Field to the row that was seen to be true, by handler */
const seen: Readonly<Record<Handler, Map<string, Row>>> = {
  crun: new Map(),
  runc: new Map(),
  firecracker: new Map(),
};

async function accountsLayer(): Promise<Buffer> {
  const tar = pack();
  tar.entry({ name: "etc/passwd" }, "root:x:0:0:root:/root:/bin/sh\nmember:x:1234:1234::/:/bin/sh\n");
  tar.entry({ name: "etc/group" }, "root:x:0:\nextra:x:4567:member\n");
  tar.finalize();
  return buffer(tar);
}

/** The bridge's own address: the first of the network in the test's configuration. */
function gatewayOf(cni: TestCni): string {
  const text = readFileSync(join(cni.confDir, "10-test.conflist"), "utf8");
  const subnet = /"subnet":"([\d.]+)\.0\/24"/.exec(text)?.[1];
  assert.ok(subnet);
  return `${subnet}.1`;
}

describe("each field of a pod's and a container's configuration", () => {
  const work = mkdtempSync("/tmp/tb-");
  // The root of a user namespace has to get through it.
  chmodSync(work, 0o711);
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let stage: Stage;

  before(async () => {
    snapshot = snapshotHost([]);
    registry = await startRegistry({ dir: join(work, "registry") });
    const image = `${registry.host}/test/busybox:latest`;
    await pushBusyboxImage(registry.url, "test/busybox", "latest", [await accountsLayer()]);
    cni = writeBridgeConf(join(work, "cni"), [
      { type: "portmap", capabilities: { portMappings: true }, snat: false },
    ]);
    const cdiSpecDir = join(work, "cdi");
    mkdirSync(cdiSpecDir);
    daemon = await startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: `cdi_spec_dirs = [${JSON.stringify(cdiSpecDir)}]\n${cni.toml}`,
    });
    const cri = new TestCri(daemon.socket, work);
    await cri.pull(image);
    stage = {
      cri,
      work,
      image,
      cdiSpecDir,
      hostIp: gatewayOf(cni),
      cgroupParent: `/tb-fields-${process.pid}`,
    };
  });

  const tearDown = async (): Promise<void> => {
    stage.cri[Symbol.dispose]();
    await daemon.stop();
    await registry.stop();
    cni.remove();
    // The parent of pods is its user's.
    for (const path of cgroupDirectories(stage.cgroupParent)) rmdirSync(path);
    rmSync(work, { recursive: true, force: true });
  };
  let isDown = false;
  after(async () => {
    if (!isDown) await tearDown();
  });

  test("each field has one row for each handler, and each row a field", () => {
    for (const handler of handlers) {
      const spoken = rowsOf(handler).flatMap((row) => row.fields);
      assert.deepEqual(
        fields.filter((field) => !spoken.includes(field)),
        [],
        `no row on ${handler}`,
      );
      assert.deepEqual(
        spoken.filter((field) => !fields.includes(field)),
        [],
        "no such field",
      );
      assert.deepEqual(
        spoken.filter((field, n) => spoken.indexOf(field) !== n),
        [],
        "two rows",
      );
    }
  });

  for (const handler of handlers) {
    describe(handler, () => {
      let scene: Scene;
      before(async () => {
        scene = new Scene(handler, stage);
        await scene.start();
      });
      after(async () => {
        await stage.cri.removePods();
        scene.end();
      });
      for (const row of rowsOf(handler)) {
        test(`${row.outcome}: ${row.fields.join(", ")}`, async () => {
          await row.check(scene);
          for (const field of row.fields) seen[handler].set(field, row);
        });
      }
    });
  }

  test("docs/cri-fields.md says what was seen", () => {
    const text = readFileSync(page, "utf8");
    const made = withTable(text, fields, seen);
    if (process.env["CRI_FIELDS_WRITE"] === "1") writeFileSync(page, made);
    else
      assert.equal(text, made, "make it again: CRI_FIELDS_WRITE=1 node --test tests/cri-field-table.test.ts");
  });

  test("nothing is left on the host", async () => {
    await tearDown();
    isDown = true;
    const differences = diffSnapshots(snapshot, snapshotHost([]));
    const leaked = differences
      .map(({ kind, added, removed }) => ({
        kind,
        added: kind === firewall ? added.filter(isRuleOfPod) : added,
        removed,
      }))
      .filter(({ added }) => added.length > 0);
    assert.deepEqual(leaked, [], formatDiff(snapshot, differences));
  });
});
