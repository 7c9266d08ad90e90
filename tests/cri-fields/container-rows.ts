/** ContainerConfig, without its Linux part. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type ImageSpec,
  MountPropagation,
  NamespaceMode,
  Signal,
} from "../../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { below, type Row } from "./row.ts";
import { idMap, mountTmpfs, outsideRoot, type Scene } from "./scene.ts";

const container = "ContainerConfig";
const mounts = `${container}.mounts`;

/** `image` of the container and of a mount, which are one message */
function imageRows(
  at: string,
  notes: { readonly annotation: string; readonly user: string },
  told: (scene: Scene) => Promise<ImageSpec | undefined>,
  refuses: (
    scene: Scene,
    image: { runtimeHandler?: string; imageRef?: string },
    field: RegExp,
  ) => Promise<void>,
): readonly Row[] {
  const escaped = at.replace(`${container}.`, "").replace("mounts", "mounts\\[0\\]");
  return [
    {
      fields: below(at, "annotations"),
      outcome: "told back",
      note: "ContainerStatus",
      check: async (scene) =>
        assert.ok(Object.hasOwn((await told(scene))?.annotations ?? {}, notes.annotation)),
    },
    {
      fields: below(at, "user_specified_image"),
      outcome: "told back",
      note: "ContainerStatus",
      check: async (scene) => assert.equal((await told(scene))?.userSpecifiedImage, notes.user),
    },
    {
      fields: below(at, "runtime_handler"),
      outcome: "told back",
      note: "ContainerStatus; an unknown one is refused. Images are the same for all handlers",
      check: async (scene) => {
        assert.equal((await told(scene))?.runtimeHandler, scene.handler);
        const field = new RegExp(`^config\\.${escaped}\\.runtime_handler: "kata"`);
        await refuses(scene, { runtimeHandler: "kata" }, field);
      },
    },
    {
      fields: below(at, "image_ref"),
      outcome: "refused",
      note: "only statuses have it",
      check: (scene) =>
        refuses(scene, { imageRef: "x" }, new RegExp(`^config\\.${escaped}\\.image_ref: "x"`)),
    },
  ];
}

const volumeMount = async (scene: Scene) =>
  (await scene.containerStatus(scene.c.plain)).mounts.find(({ image }) => image !== undefined);

/** A mount of the pod with a user namespace, with the ids of the host inside. */
async function mappedOwner(scene: Scene): Promise<string> {
  const usernsOptions = { mode: NamespaceMode.POD, uids: idMap, gids: idMap };
  const securityContext = { namespaceOptions: { pid: NamespaceMode.POD, usernsOptions } };
  const config = scene.cri.podConfig({ linux: { securityContext } });
  const podId = await scene.cri.runPod(scene.handler, config);
  const mount = { containerPath: "/mapped", hostPath: join(scene.volume, "mapped") };
  mkdirSync(mount.hostPath, { recursive: true });
  const one = await scene.cri.start(podId, config, scene.stage.image, {
    mounts: [{ ...mount, uidMappings: idMap, gidMappings: idMap }],
    linux: { securityContext },
  });
  const seen = await scene.cri.output(one, "sh", "-c", "stat -c %u:%g /mapped; touch /mapped/new");
  const { uid, gid } = statSync(join(mount.hostPath, "new"));
  assert.ok(uid < outsideRoot);
  return `${seen.trim()} ${uid}:${gid}`;
}
const owners = new WeakMap<Scene, Promise<string>>();

const idFields = ["uidMappings", "gidMappings"].flatMap((name) =>
  below(`${mounts}.${name}`, "host_id container_id length"),
);

const mountRows: readonly Row[] = [
  {
    fields: below(mounts, "container_path host_path"),
    outcome: "obeyed",
    note: "a file of the host is read, one that is written there is on the host",
    check: async ({ cri, c, volume }) => {
      assert.equal(
        await cri.output(c.plain, "sh", "-c", "cat /volume/given; echo new >/volume/made"),
        "given\n",
      );
      assert.equal(readFileSync(join(volume, "made"), "utf8"), "new\n");
    },
  },
  {
    fields: below(mounts, "readonly"),
    outcome: "obeyed",
    note: "a write fails; a mount below it can be written",
    check: async (scene) => {
      assert.match(await scene.sh(scene.c.plain, "touch /ro/x"), /Read-only file system/);
      assert.equal(await scene.sh(scene.c.plain, "touch /ro/below/x"), "");
    },
  },
  {
    fields: below(mounts, "recursive_read_only"),
    outcome: "obeyed",
    note: "a write to a mount below it fails",
    check: async (scene) => {
      assert.match(
        await scene.sh(scene.c.plain, "ls /rro/below; touch /rro/below/x"),
        /^mark\n(.*\n)*.*Read-only/,
      );
    },
  },
  {
    fields: below(mounts, "selinux_relabel"),
    outcome: "nothing to do",
    note: "there is no SELinux; where the host has it, refused",
    check: async (scene) => {
      const hostPath = scene.volume;
      const send = (): Promise<unknown> =>
        scene.cri.create(scene.podId, scene.config, scene.stage.image, {
          mounts: [{ containerPath: "/x", hostPath, selinuxRelabel: true }],
        });
      if (existsSync("/sys/fs/selinux/enforce"))
        await assert.rejects(send, /config\.mounts\[0\]\.selinux_relabel/);
      else await send();
    },
  },
  {
    fields: below(mounts, "propagation"),
    outcome: "obeyed",
    note: "what the host mounts later appears with HOST_TO_CONTAINER alone; BIDIRECTIONAL is refused in a microVM",
    check: async (scene) => {
      const later = join(scene.volume, "slave/new");
      mkdirSync(later);
      mountTmpfs(later);
      assert.equal(await scene.sh(scene.c.plain, "ls /slave/new"), "mark\n");
      assert.equal(await scene.sh(scene.c.plain, "ls /volume/slave/new"), "");
      if (scene.place === "host") return;
      const propagation = MountPropagation.PROPAGATION_BIDIRECTIONAL;
      const hostPath = join(scene.volume, "slave");
      await scene.refusesContainer(
        { mounts: [{ containerPath: "/x", hostPath, propagation }] },
        /mounts\[0\]\.propagation/,
      );
    },
  },
  {
    fields: idFields,
    outcome: "obeyed",
    note: "in a pod with a user namespace root owns root's files, and what it makes is root's on the host",
    check: async (scene) => {
      const made = owners.get(scene) ?? mappedOwner(scene);
      owners.set(scene, made);
      assert.equal(await made, "0:0 0:0");
    },
  },
  {
    fields: below(mounts, "image_sub_path image.image"),
    outcome: "obeyed",
    note: "the image's directory is there, read-only; refused without readonly",
    check: async (scene) => {
      assert.match(await scene.cri.output(scene.c.plain, "cat", "/part/passwd"), /^member:/m);
      assert.match(await scene.sh(scene.c.plain, "touch /part/x"), /Read-only file system/);
      const { image } = scene.stage;
      await scene.refusesContainer(
        { mounts: [{ containerPath: "/x", image: { image }, imageSubPath: "../etc", readonly: true }] },
        /^config\.mounts\[0\]\.image_sub_path: "\.\.\/etc"/,
      );
    },
  },
  ...imageRows(
    `${mounts}.image`,
    { annotation: "volume-annotation", user: "a.volume/wrote:it" },
    async (scene) => (await volumeMount(scene))?.image,
    (scene, image, field) =>
      scene.refusesContainer(
        {
          mounts: [{ containerPath: "/x", image: { image: scene.stage.image, ...image }, readonly: true }],
        },
        field,
      ),
  ),
];

const deviceFields = below(`${container}.devices`, "container_path host_path permissions");

export const containerRows: readonly Row[] = [
  {
    fields: below(`${container}.metadata`, "name attempt"),
    outcome: "told back",
    note: "ContainerStatus; together they are its identity in the pod",
    check: async (scene) => {
      const { metadata } = await scene.containerStatus(scene.c.plain);
      assert.deepEqual([metadata?.name, metadata?.attempt], ["plain", 3]);
    },
  },
  {
    fields: below(`${container}.image`, "image"),
    outcome: "obeyed",
    note: "its files are the container's, its id is in ContainerStatus; one that is not on the node is refused",
    check: async (scene) => {
      const { image } = await scene.cri.images.callUnary("imageStatus", {
        image: { image: scene.stage.image },
      });
      assert.equal((await scene.containerStatus(scene.c.plain)).imageId, image?.id);
      assert.match(await scene.cri.output(scene.c.plain, "cat", "/etc/passwd"), /^member:/m);
    },
  },
  ...imageRows(
    `${container}.image`,
    { annotation: "image-annotation", user: "as.the.user/wrote:it" },
    async (scene) => (await scene.containerStatus(scene.c.plain)).image,
    (scene, image, field) => scene.refusesContainer({ image: { image: scene.stage.image, ...image } }, field),
  ),
  {
    fields: below(container, "command args"),
    outcome: "obeyed",
    note: "what the program says of its arguments, in the log",
    check: async (scene) => {
      assert.match(
        await scene.log((await scene.containerStatus(scene.c.plain)).logPath, "zero one"),
        /stdout F zero one$/m,
      );
    },
  },
  {
    fields: below(container, "working_dir"),
    outcome: "obeyed",
    note: "/proc/1/cwd",
    check: async ({ cri, c }) => {
      assert.equal(await cri.output(c.plain, "readlink", "/proc/1/cwd"), "/tmp\n");
    },
  },
  {
    fields: below(`${container}.envs`, "key value"),
    outcome: "obeyed",
    note: "/proc/1/environ",
    check: async ({ cri, c }) => {
      const text = await cri.output(c.plain, "cat", "/proc/1/environ");
      assert.ok(text.split("\0").includes("FIELD=value=1"), text);
    },
  },
  ...mountRows,
  {
    fields: deviceFields,
    on: "host",
    outcome: "obeyed",
    note: "the node has the host's numbers; what is not permitted fails; a privileged container has it as well",
    check: async (scene) => {
      assert.equal(await scene.sh(scene.c.plain, "stat -c %t:%T /dev/mine"), "a:ed\n");
      assert.equal(await scene.sh(scene.c.plain, ": </dev/mine"), "");
      assert.match(await scene.sh(scene.c.plain, ": >/dev/mine"), /Operation not permitted/);
      const devices = [{ containerPath: "/dev/other", hostPath: "/dev/null", permissions: "r" }];
      const privileged = await scene.cri.start(scene.podId, scene.config, scene.stage.image, {
        devices,
        linux: { securityContext: { privileged: true, namespaceOptions: { pid: NamespaceMode.POD } } },
      });
      assert.equal(await scene.sh(privileged, "stat -c %t:%T /dev/other"), "1:3\n");
    },
  },
  {
    fields: deviceFields,
    on: "microvm",
    outcome: "obeyed",
    note: "a block device is a drive, with the host's bytes and the node's mode; without w the VMM opens it read-only; character devices are refused",
    check: async (scene) => {
      assert.equal(await scene.sh(scene.c.plain, "head -n 1 /dev/mine"), "on the device\n");
      const mode = (statSync(scene.loop).mode & 0o777).toString(8);
      assert.equal(await scene.sh(scene.c.plain, "stat -c %F:%a /dev/mine"), `block special file:${mode}\n`);
      assert.match(await scene.sh(scene.c.plain, ": >>/dev/mine"), /Operation not permitted/);
      await scene.refusesContainer(
        { devices: [{ containerPath: "/dev/mine", hostPath: "/dev/null", permissions: "r" }] },
        /devices\[0\]\.host_path "\/dev\/null": a character device/,
      );
    },
  },
  {
    fields: below(container, "labels annotations"),
    outcome: "told back",
    note: "ContainerStatus and lists; `cdi.k8s.io/` annotations name CDI devices",
    check: async (scene) => {
      const filter = { labelSelector: { "container-label": "5" } };
      const { containers } = await scene.cri.runtime.callUnary("listContainers", { filter });
      assert.deepEqual(
        containers.map(({ id }) => id),
        [scene.c.plain.id],
      );
      for (const one of [containers[0], await scene.containerStatus(scene.c.plain)]) {
        assert.deepEqual(one?.labels, { "container-label": "5" });
        assert.deepEqual(one?.annotations, { "container-annotation": "6" });
      }
      await scene.refusesContainer(
        { annotations: { "cdi.k8s.io/x": "a/b=c" } },
        /^config\.annotations\["cdi\.k8s\.io\/x"\]: "a\/b=c": there is no such CDI device/,
      );
    },
  },
  {
    fields: below(container, "log_path"),
    outcome: "obeyed",
    note: "the file is there below log_directory",
    check: async (scene) => {
      const path = join(scene.config.logDirectory, "deep/plain.log");
      assert.equal((await scene.containerStatus(scene.c.plain)).logPath, path);
      await scene.log(path, "zero one");
    },
  },
  {
    fields: below(container, "stdin"),
    outcome: "obeyed",
    note: "a line that is attached arrives, and the input stays open; without it standard input is /dev/null",
    check: async (scene) => {
      await scene.sendInput(scene.c.open, "first");
      await scene.sendInput(scene.c.open, "second");
      assert.doesNotMatch(await scene.log(scene.c.open.logPath, "got second"), /end of input/);
      assert.equal(await scene.cri.output(scene.c.plain, "readlink", "/proc/1/fd/0"), "/dev/null\n");
    },
  },
  {
    fields: below(container, "stdin_once"),
    outcome: "obeyed",
    note: "the program sees the end of its input after the first that attached",
    check: async (scene) => {
      await scene.sendInput(scene.c.once, "only");
      await scene.log(scene.c.once.logPath, "end of input");
    },
  },
  {
    fields: below(container, "tty"),
    outcome: "obeyed",
    note: "standard output is a terminal",
    check: async ({ cri, c }) => {
      assert.match(await cri.output(c.terminal, "readlink", "/proc/1/fd/1"), /^\/dev\/(pts\/|console)/);
      assert.doesNotMatch(await cri.output(c.plain, "readlink", "/proc/1/fd/1"), /pts|console/);
    },
  },
  {
    fields: below(container, "stop_signal"),
    outcome: "obeyed",
    note: "the program's handler of that signal runs when it is stopped",
    check: async (scene) => {
      const { stopping } = scene.c;
      assert.equal((await scene.containerStatus(stopping)).stopSignal, Signal.SIGUSR1);
      await scene.cri.runtime.callUnary("stopContainer", { containerId: stopping.id, timeout: 30n });
      await scene.log(stopping.logPath, "told to end");
      assert.equal((await scene.containerStatus(stopping)).exitCode, 0);
    },
  },
  {
    fields: below(`${container}.CDI_devices`, "name"),
    on: "host",
    outcome: "obeyed",
    note: "its variable and its mount are there; one that no file describes is refused",
    check: async (scene) => {
      const said = await cdiContainer(scene, {
        env: ["CDI=here"],
        mounts: [{ hostPath: scene.volume, containerPath: "/cdi", options: ["bind", "ro"] }],
      });
      assert.equal(said, "here\ngiven\n");
      await scene.refusesContainer({ CDIDevices: [{ name: "a/b=c" }] }, /^config\.CDI_devices\[0\]\.name: /);
    },
  },
  {
    fields: below(`${container}.CDI_devices`, "name"),
    on: "microvm",
    outcome: "obeyed",
    note: "variables and block devices; a device with other edits is refused",
    check: async (scene) => {
      const deviceNodes = [{ path: "/cdi/given", hostPath: scene.loop, permissions: "r" }];
      assert.equal(await cdiContainer(scene, { env: ["CDI=here"], deviceNodes }), "here\non the device\n");
      await assert.rejects(cdiContainer(scene, { mounts: [{ hostPath: "/etc", containerPath: "/x" }] }), {
        code: "UNSUPPORTED",
        message: /CDI device fields\.test\/class=one: mounts: not possible in a microVM/,
      });
    },
  },
];

/** What a container with a CDI device of these edits says of its variable CDI and of the first line of /cdi/given. */
async function cdiContainer(scene: Scene, containerEdits: object): Promise<string> {
  const kind = "fields.test/class";
  const file = { cdiVersion: "0.6.0", kind, devices: [{ name: "one", containerEdits }] };
  writeFileSync(join(scene.stage.cdiSpecDir, "fields.json"), JSON.stringify(file));
  const container = await scene.cri.start(scene.podId, scene.config, scene.stage.image, {
    CDIDevices: [{ name: `${kind}=one` }],
  });
  return scene.sh(container, "echo $CDI; head -n 1 /cdi/given");
}
