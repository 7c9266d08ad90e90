/** NamespaceOption and UserNamespace, of the pod and of its containers. */
import assert from "node:assert/strict";
import { readlinkSync } from "node:fs";
import { NamespaceMode } from "../../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import type { TestContainer } from "../support/cri-client.ts";
import { below, type Row } from "./row.ts";
import { idMap, outsideRoot, type Scene } from "./scene.ts";

const ofPod = "PodSandboxConfig.linux.security_context.namespace_options";
const ofContainer = "ContainerConfig.linux.security_context.namespace_options";
const { POD, CONTAINER, NODE, TARGET } = NamespaceMode;
const idFields = [
  ...below("uids", "host_id container_id length"),
  ...below("gids", "host_id container_id length"),
];
const userFields = (path: string): readonly string[] =>
  ["mode", ...idFields].map((name) => `${path}.userns_options.${name}`);

type Kind = "net" | "pid" | "ipc";

async function namespaceOf(scene: Scene, container: TestContainer, kind: Kind): Promise<string> {
  return (await scene.cri.output(container, "readlink", `/proc/self/ns/${kind}`)).trim();
}

/** A pod in the node's namespaces, and a container in it. */
async function inNode(scene: Scene): Promise<TestContainer> {
  const securityContext = { namespaceOptions: { network: NODE, pid: NODE, ipc: NODE } };
  const config = scene.cri.podConfig({ linux: { securityContext } });
  const podId = await scene.cri.runPod(scene.handler, config);
  return scene.cri.start(podId, config, scene.stage.image, { linux: { securityContext } });
}

const nodes = new WeakMap<Scene, Promise<TestContainer>>();
function nodeContainer(scene: Scene): Promise<TestContainer> {
  const made = nodes.get(scene) ?? inNode(scene);
  nodes.set(scene, made);
  return made;
}

/** A pod with a user namespace: what its containers see of the maps. */
async function seenMaps(scene: Scene): Promise<string> {
  const usernsOptions = { mode: POD, uids: idMap, gids: idMap };
  const securityContext = { namespaceOptions: { pid: POD, usernsOptions } };
  const config = scene.cri.podConfig({ linux: { securityContext } });
  const podId = await scene.cri.runPod(scene.handler, config);
  const container = await scene.cri.start(podId, config, scene.stage.image, { linux: { securityContext } });
  const other = [{ ...idMap[0], length: 1000 }];
  for (const wrong of [
    { mode: NODE },
    { mode: POD, uids: other, gids: idMap },
    { mode: POD, uids: idMap, gids: other },
  ])
    await assert.rejects(
      scene.cri.create(podId, config, scene.stage.image, {
        linux: { securityContext: { namespaceOptions: { pid: POD, usernsOptions: wrong } } },
      }),
      /^TinderboxError.*config\.linux\.security_context\.namespace_options\.userns_options/,
    );
  return scene.cri.output(container, "cat", "/proc/self/uid_map", "/proc/self/gid_map");
}

const maps = new WeakMap<Scene, Promise<string>>();
async function checkMaps(scene: Scene): Promise<void> {
  const made = maps.get(scene) ?? seenMaps(scene);
  maps.set(scene, made);
  const line = `0 ${outsideRoot} 65536`;
  assert.deepEqual(
    (await made)
      .trim()
      .split("\n")
      .map((one) => one.trim().replace(/\s+/g, " ")),
    [line, line],
  );
}

const nodeRow = (name: string, kind: Kind): Row => ({
  fields: below(ofPod, name),
  on: "host",
  outcome: "obeyed",
  note: "the container's namespace: the pod's own, or with NODE the node's",
  check: async (scene) => {
    const node = readlinkSync(`/proc/self/ns/${kind}`);
    assert.equal(await namespaceOf(scene, await nodeContainer(scene), kind), node);
    const own = await namespaceOf(scene, scene.c.user, kind);
    assert.notEqual(own, node);
    assert.equal(await namespaceOf(scene, scene.c.privileged, kind), own);
  },
});

/** Both kinds of answer in a microVM: what is the pod's is shared, what is the node's is refused. */
const guestRow = (name: "network" | "pid" | "ipc", kind: Kind): Row => ({
  fields: below(ofPod, name),
  on: "microvm",
  outcome: "obeyed",
  note: "POD: its containers share it; NODE is refused: the pod has a kernel of its own",
  check: async (scene) => {
    const first = await namespaceOf(scene, scene.c.user, kind);
    const second = await namespaceOf(scene, scene.c.privileged, kind);
    assert.equal(second, first);
    await scene.refusesPod(
      { linux: { securityContext: { namespaceOptions: { [name]: NODE } } } },
      new RegExp(`namespace_options\\.${name} NODE: not possible in a microVM`),
    );
  },
});

export const namespaceRows: readonly Row[] = [
  nodeRow("network", "net"),
  nodeRow("pid", "pid"),
  nodeRow("ipc", "ipc"),
  guestRow("network", "net"),
  guestRow("pid", "pid"),
  guestRow("ipc", "ipc"),
  {
    fields: below(ofPod, "target_id"),
    outcome: "refused",
    note: "a pod has no target",
    check: (scene) =>
      scene.refusesPod(
        { linux: { securityContext: { namespaceOptions: { targetId: "x" } } } },
        /^config\.linux\.security_context\.namespace_options\.target_id: "x"/,
      ),
  },
  {
    fields: userFields(ofPod),
    outcome: "obeyed",
    note: "/proc/self/uid_map and gid_map; one mapping each, which begins at 0",
    check: checkMaps,
  },
  {
    fields: below(ofContainer, "network"),
    outcome: "obeyed",
    note: "the pod's; NODE is refused in a pod with its own",
    check: async (scene) => {
      const ip = (await scene.podStatus()).status.network?.ip;
      assert.ok((await scene.cri.output(scene.c.plain, "ip", "addr")).includes(`inet ${ip}/`));
      await scene.refusesContainer(
        { linux: { securityContext: { namespaceOptions: { network: NODE } } } },
        /^config\.linux\.security_context\.namespace_options\.network: 2 /,
      );
    },
  },
  {
    fields: below(ofContainer, "pid"),
    outcome: "obeyed",
    note: "POD, CONTAINER, TARGET by who process 1 is; NODE on crun alone",
    check: async (scene) => {
      const first = async (container: TestContainer): Promise<string> =>
        (await scene.cri.output(container, "readlink", "/proc/self/ns/pid")).trim();
      const [plain, user, member] = [scene.c.plain, scene.c.user, scene.c.member];
      assert.notEqual(await first(plain), await first(user));
      assert.equal(await first(plain), await first(member));
      assert.match(await scene.cri.output(plain, "cat", "/proc/1/cmdline"), /^sleep\0/);
      assert.doesNotMatch(await scene.cri.output(user, "cat", "/proc/1/cmdline"), /^sleep\0/);
      const linux = { securityContext: { namespaceOptions: { pid: NODE } } };
      if (scene.place === "microvm")
        await scene.refusesContainer({ linux }, /namespace_options\.pid NODE: not possible in a microVM/);
      else assert.equal(await first(await nodeContainer(scene)), readlinkSync("/proc/self/ns/pid"));
    },
  },
  {
    fields: below(ofContainer, "ipc"),
    outcome: "obeyed",
    note: "POD: shared; NODE on crun alone",
    check: async (scene) => {
      const own = await namespaceOf(scene, scene.c.plain, "ipc");
      assert.equal(await namespaceOf(scene, scene.c.user, "ipc"), own);
      const linux = { securityContext: { namespaceOptions: { pid: CONTAINER, ipc: NODE } } };
      if (scene.place === "microvm")
        await scene.refusesContainer({ linux }, /namespace_options\.ipc NODE: not possible in a microVM/);
      else {
        const node = await namespaceOf(scene, await nodeContainer(scene), "ipc");
        assert.equal(node, readlinkSync("/proc/self/ns/ipc"));
        assert.notEqual(node, own);
      }
    },
  },
  {
    fields: below(ofContainer, "target_id"),
    outcome: "obeyed",
    note: "process 1 is that container's; refused without TARGET",
    check: async (scene) => {
      assert.equal(
        await namespaceOf(scene, scene.c.member, "pid"),
        await namespaceOf(scene, scene.c.plain, "pid"),
      );
      await scene.refusesContainer(
        { linux: { securityContext: { namespaceOptions: { pid: CONTAINER, targetId: "x" } } } },
        /^config\.linux\.security_context\.namespace_options\.target_id: "x"/,
      );
      await scene.refusesContainer(
        { linux: { securityContext: { namespaceOptions: { pid: TARGET } } } },
        /^config\.linux\.security_context\.namespace_options\.target_id: ""/,
      );
    },
  },
  {
    fields: userFields(ofContainer),
    outcome: "obeyed",
    note: "the pod's; anything else is refused",
    check: checkMaps,
  },
];
