/** LinuxSandboxSecurityContext and LinuxContainerSecurityContext without their namespaces. */
import assert from "node:assert/strict";
import { SecurityProfile_ProfileType } from "../../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import type { ContainerInit, PodInit } from "../support/cri-client.ts";
import { below, type Row } from "./row.ts";
import type { Scene } from "./scene.ts";

type Security<T extends PodInit | ContainerInit> = NonNullable<NonNullable<T["linux"]>["securityContext"]>;

const ofPod = "PodSandboxConfig.linux.security_context";
const ofContainer = "ContainerConfig.linux.security_context";
const wire = "config\\.linux\\.security_context";

/** By number, linux/capability.h */
const capability = { chown: 0n, netBindService: 10n, netAdmin: 12n, netRaw: 13n, sysAdmin: 21n };

async function has(scene: Scene, name: keyof Scene["c"], set: string, bit: bigint): Promise<boolean> {
  const text = await scene.processStatus(scene.c[name], set);
  return ((BigInt(`0x${text}`) >> bit) & 1n) === 1n;
}

const seccompOf = (scene: Scene, name: keyof Scene["c"]): Promise<string> =>
  scene.processStatus(scene.c[name], "Seccomp");

const refusesPod = (scene: Scene, securityContext: Security<PodInit>, pattern: RegExp): Promise<void> =>
  scene.refusesPod({ linux: { securityContext } }, pattern);
const refusesContainer = (
  scene: Scene,
  securityContext: Security<ContainerInit>,
  pattern: RegExp,
): Promise<void> => scene.refusesContainer({ linux: { securityContext } }, pattern);

/** A field of the pod's own processes, of which there are none: wrong values are refused, right ones accepted as the scene's pod shows. */
const ownProcess = (
  name: string,
  wrong: Security<PodInit>,
  value: string,
  note = "no process of an image runs for the pod itself; a wrong value is refused",
): Row => ({
  fields: below(ofPod, name),
  outcome: "nothing to do",
  note,
  check: (scene) => refusesPod(scene, wrong, new RegExp(`^${wire}\\.${value}`)),
});

const { Localhost, RuntimeDefault } = SecurityProfile_ProfileType;
const noAppArmor =
  "on a host without AppArmor and in a microVM, where RuntimeDefault is none; where the host has it, obeyed (tests/debian-host.test.ts)";

const podRows: readonly Row[] = [
  ownProcess("run_as_user.value", { runAsUser: { value: -1n } }, "run_as_user: -1 "),
  ownProcess(
    "run_as_group.value",
    { runAsUser: { value: 1n }, runAsGroup: { value: -1n } },
    "run_as_group: -1 ",
  ),
  ownProcess("supplemental_groups", { supplementalGroups: [-1n] }, "supplemental_groups\\[0\\]: -1 "),
  ownProcess(
    "supplemental_groups_policy",
    // A number that the enum has not.
    { supplementalGroupsPolicy: 9 as never },
    "supplemental_groups_policy: 9 ",
  ),
  {
    fields: below(ofPod, "readonly_rootfs"),
    outcome: "nothing to do",
    note: "the pod itself has no root file system; its containers' are as they ask",
    check: async (scene) => assert.equal(await scene.sh(scene.c.privileged, "touch /x"), ""),
  },
  {
    fields: below(ofPod, "privileged"),
    outcome: "obeyed",
    note: "only in such a pod may a container be privileged",
    check: async (scene) => {
      assert.ok(await has(scene, "privileged", "CapEff", capability.sysAdmin));
      // The other half, a plain pod, needs no pod on this handler: it is refused before anything is made.
      const config = scene.cri.podConfig();
      const podId = await scene.cri.runPod("crun", config);
      await assert.rejects(
        scene.cri.create(podId, config, scene.stage.image, {
          linux: { securityContext: { privileged: true } },
        }),
        /config\.linux\.security_context\.privileged: true/,
      );
    },
  },
  ownProcess("seccomp.profile_type", { seccomp: { profileType: 9 as never } }, "seccomp\\.profile_type: 9 "),
  ownProcess(
    "seccomp.localhost_ref",
    { seccomp: { profileType: RuntimeDefault, localhostRef: "x" } },
    'seccomp\\.localhost_ref: "x"',
  ),
  ownProcess("seccomp_profile_path", { seccompProfilePath: "x" }, 'seccomp: "x"'),
  {
    fields: below(`${ofPod}.apparmor`, "profile_type localhost_ref"),
    outcome: "refused",
    note: noAppArmor,
    check: async (scene) => {
      const apparmor = { profileType: Localhost, localhostRef: "no-such" };
      await refusesPod(scene, { apparmor }, new RegExp(`^${wire}\\.apparmor.*no-such`));
    },
  },
];

const containerRows: readonly Row[] = [
  {
    fields: below(`${ofContainer}.capabilities`, "add_capabilities"),
    outcome: "obeyed",
    note: "CapEff in /proc/self/status",
    check: async (scene) => {
      assert.ok(await has(scene, "plain", "CapEff", capability.netAdmin));
      assert.ok(!(await has(scene, "open", "CapEff", capability.netAdmin)));
    },
  },
  {
    fields: below(`${ofContainer}.capabilities`, "drop_capabilities"),
    outcome: "obeyed",
    note: "CapBnd in /proc/self/status",
    check: async (scene) => {
      assert.ok(!(await has(scene, "plain", "CapBnd", capability.chown)));
      assert.ok(await has(scene, "open", "CapBnd", capability.chown));
    },
  },
  {
    fields: below(`${ofContainer}.capabilities`, "add_ambient_capabilities"),
    outcome: "obeyed",
    note: "CapAmb and CapEff of a user who is not root",
    check: async (scene) => {
      assert.ok(await has(scene, "user", "CapAmb", capability.netRaw));
      assert.ok(await has(scene, "user", "CapEff", capability.netRaw));
      assert.ok(!(await has(scene, "user", "CapEff", capability.netBindService)));
    },
  },
  {
    fields: below(ofContainer, "privileged"),
    outcome: "obeyed",
    note: "CAP_SYS_ADMIN, a mount that works, no seccomp",
    check: async (scene) => {
      assert.equal(
        await scene.sh(scene.c.privileged, "mkdir -p /mnt && mount -t tmpfs none /mnt && umount /mnt"),
        "",
      );
      assert.equal(await seccompOf(scene, "privileged"), "0");
      assert.ok(!(await has(scene, "open", "CapEff", capability.sysAdmin)));
    },
  },
  {
    fields: [...below(ofContainer, "run_as_user.value run_as_group.value")],
    outcome: "obeyed",
    note: "Uid and Gid in /proc/self/status, and ContainerStatus",
    check: async (scene) => {
      assert.equal(await scene.processStatus(scene.c.user, "Uid"), "1234\t1234\t1234\t1234");
      assert.equal(await scene.processStatus(scene.c.user, "Gid"), "2345\t2345\t2345\t2345");
      const { user } = await scene.containerStatus(scene.c.user);
      assert.deepEqual([user?.linux?.uid, user?.linux?.gid], [1234n, 2345n]);
    },
  },
  {
    fields: below(ofContainer, "run_as_username"),
    outcome: "obeyed",
    note: "the uid and gid that the image's /etc/passwd has for it",
    check: async (scene) => {
      assert.equal(await scene.processStatus(scene.c.member, "Uid"), "1234\t1234\t1234\t1234");
      await refusesContainer(scene, { runAsUsername: "nobody-here" }, /run_as_username "nobody-here"/);
    },
  },
  {
    fields: below(ofContainer, "readonly_rootfs"),
    outcome: "obeyed",
    note: "a write fails; the other containers can write",
    check: async (scene) => {
      assert.match(await scene.sh(scene.c.member, "touch /tmp/x"), /Read-only file system/);
      assert.equal(await scene.sh(scene.c.open, "touch /tmp/x"), "");
    },
  },
  {
    fields: below(ofContainer, "supplemental_groups"),
    outcome: "obeyed",
    note: "Groups in /proc/self/status",
    check: async (scene) =>
      assert.deepEqual((await scene.processStatus(scene.c.user, "Groups")).split(" "), ["2345", "3456"]),
  },
  {
    fields: below(ofContainer, "supplemental_groups_policy"),
    outcome: "obeyed",
    note: "the groups of the image's /etc/group: with Merge, and not with Strict",
    check: async (scene) => {
      assert.match(await scene.processStatus(scene.c.member, "Groups"), /\b4567\b/);
      assert.doesNotMatch(await scene.processStatus(scene.c.user, "Groups"), /\b4567\b/);
    },
  },
  {
    fields: below(ofContainer, "no_new_privs"),
    outcome: "obeyed",
    note: "NoNewPrivs in /proc/self/status",
    check: async (scene) => {
      assert.equal(await scene.processStatus(scene.c.plain, "NoNewPrivs"), "1");
      assert.equal(await scene.processStatus(scene.c.open, "NoNewPrivs"), "0");
    },
  },
  {
    fields: below(ofContainer, "masked_paths"),
    outcome: "obeyed",
    note: "the file is empty; not in a privileged container",
    check: async (scene) => {
      assert.equal(await scene.sh(scene.c.plain, "cat /proc/version"), "");
      assert.notEqual(await scene.sh(scene.c.privileged, "cat /proc/version"), "");
    },
  },
  {
    fields: below(ofContainer, "readonly_paths"),
    outcome: "obeyed",
    note: "a write fails; not in a privileged container",
    check: async (scene) => {
      assert.match(await scene.sh(scene.c.plain, "touch /root/x"), /Read-only file system/);
      assert.equal(await scene.sh(scene.c.privileged, "touch /root/x"), "");
    },
  },
  {
    fields: below(`${ofContainer}.seccomp`, "profile_type"),
    outcome: "obeyed",
    note: "RuntimeDefault and Localhost: a filter is on; Unconfined: none",
    check: async (scene) => {
      assert.equal(await seccompOf(scene, "user"), "2");
      assert.equal(await seccompOf(scene, "plain"), "2");
      assert.equal(await seccompOf(scene, "open"), "0");
    },
  },
  {
    fields: below(`${ofContainer}.seccomp`, "localhost_ref"),
    outcome: "obeyed",
    note: "a call that the host's file denies fails; refused without Localhost",
    check: async (scene) => {
      assert.match(await scene.sh(scene.c.plain, "mkdir /tmp/d"), /Operation not permitted/);
      assert.equal(await scene.sh(scene.c.open, "mkdir /tmp/d"), "");
      const seccomp = { profileType: RuntimeDefault, localhostRef: "/x" };
      await refusesContainer(scene, { seccomp }, new RegExp(`^${wire}\\.seccomp\\.localhost_ref: `));
    },
  },
  {
    fields: below(ofContainer, "seccomp_profile_path"),
    outcome: "obeyed",
    note: "deprecated; what seccomp says counts, this where it is unset",
    check: async (scene) => assert.equal(await seccompOf(scene, "member"), "2"),
  },
  {
    fields: below(`${ofContainer}.apparmor`, "profile_type localhost_ref"),
    outcome: "refused",
    note: noAppArmor,
    check: (scene) =>
      refusesContainer(
        scene,
        { apparmor: { profileType: Localhost, localhostRef: "no-such" } },
        new RegExp(`^${wire}\\.apparmor.*no-such`),
      ),
  },
  {
    fields: below(ofContainer, "apparmor_profile"),
    outcome: "refused",
    note: "deprecated; as apparmor, which counts where both are set",
    check: (scene) =>
      refusesContainer(
        scene,
        { apparmorProfile: "localhost/no-such" },
        new RegExp(`^${wire}\\.apparmor.*no-such`),
      ),
  },
];

export const securityRows: readonly Row[] = [...podRows, ...containerRows];
