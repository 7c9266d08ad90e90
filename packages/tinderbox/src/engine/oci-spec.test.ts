import assert from "node:assert/strict";
import { test } from "node:test";
import { noEdits } from "../cdi/contract.ts";
import type { Digest, Image } from "../image/contract.ts";
import { allCapabilities } from "./capability-set.ts";
import type { ContainerConfig, ContainerSecurity, Mount, PodConfig } from "./contract.ts";
import { containerLogPath } from "./create-container.ts";
import { guestDevices } from "./guest-devices.ts";
import { type BuiltSpec, buildOciSpec, type PlaceFacts } from "./oci-spec.ts";
import { signalNumber } from "./signal-number.ts";

const image: Image = {
  id: `sha256:${"00".repeat(32)}` as Digest,
  repoTags: [],
  repoDigests: [],
  isPinned: false,
  sizeBytes: 1,
  config: {
    user: "app:web",
    env: ["A=image", "B=image"],
    entrypoint: ["/entry"],
    cmd: ["cmd"],
    workingDir: "/work",
    stopSignal: "",
    labels: {},
    volumes: [],
  },
  blockPath: "/x",
  fsType: "squashfs",
  passwd: "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\nbad:x:4294967296:0::/:\n1234:x:0:0::/:\n",
  group: "root:x:0:\nweb:x:500:\nextra:x:50000:app\n",
};

const security: ContainerSecurity = {
  privileged: false,
  addCapabilities: [],
  dropCapabilities: [],
  addAmbientCapabilities: [],
  pid: { mode: "container", targetId: "" },
  ipc: "pod",
  runAsUser: undefined,
  runAsUsername: "",
  runAsGroup: undefined,
  supplementalGroups: [],
  supplementalGroupsPolicy: "merge",
  readonlyRootfs: false,
  noNewPrivs: false,
  seccomp: { kind: "unconfined" },
  appArmor: { kind: "unset" },
  maskedPaths: [],
  readonlyPaths: [],
};

const config: ContainerConfig = {
  name: "c",
  attempt: 0,
  image: "i",
  userImage: "i",
  command: [],
  args: [],
  workingDir: "",
  env: [],
  mounts: [],
  devices: [],
  cdiDevices: [],
  labels: {},
  annotations: {},
  logPath: "",
  stdin: false,
  stdinOnce: false,
  tty: false,
  stopSignal: "",
  resources: {
    cpuPeriod: 0,
    cpuQuota: 0,
    cpuShares: 0,
    memoryLimitBytes: 0,
    oomScoreAdj: -998,
    cpusetCpus: "",
    cpusetMems: "",
    hugepageLimits: [],
    unified: {},
    memorySwapLimitBytes: 0,
  },
  security,
};

const pod: PodConfig = {
  name: "p",
  uid: "u",
  namespace: "n",
  attempt: 0,
  hostname: "h",
  logDirectory: "",
  dns: undefined,
  portMappings: [],
  labels: {},
  annotations: {},
  cgroupParent: "",
  sysctls: {},
  resources: { cpuPeriod: 0, cpuQuota: 0, memoryLimitBytes: 0 },
  overhead: { cpuPeriod: 0, cpuQuota: 0, memoryLimitBytes: 0 },
  namespaces: { network: "pod", pid: "container", ipc: "pod" },
  privileged: false,
  readonlyRootfs: false,
};

const facts: PlaceFacts = {
  place: "host",
  podCgroupPath: "tinderbox/p",
  shmPath: "/run/p/shm",
  hasCgroupV2: false,
  capabilities: allCapabilities,
  lowestOomScoreAdj: -5,
  hostname: "h",
  edits: noEdits,
  appArmor: { kind: "off" },
  seccompFile: undefined,
};

const build = (change: Partial<ContainerConfig>, other: Partial<PlaceFacts> = {}): BuiltSpec =>
  buildOciSpec("id", pod, { ...config, ...change }, image, { ...facts, ...other });
const withSecurity = (change: Partial<ContainerSecurity>): BuiltSpec =>
  build({ security: { ...security, ...change } });

test("buildOciSpec: command replaces entrypoint and cmd, args replace cmd", () => {
  assert.deepEqual(build({}).spec.process.args, ["/entry", "cmd"]);
  assert.deepEqual(build({ args: ["a"] }).spec.process.args, ["/entry", "a"]);
  assert.deepEqual(build({ command: ["c"] }).spec.process.args, ["c"]);
  assert.deepEqual(build({ command: ["c"], args: ["a"] }).spec.process.args, ["c", "a"]);
});

test("buildOciSpec: the request's environment wins over the image's, and there is always a PATH", () => {
  const { env } = build({ env: [{ key: "B", value: "request" }] }).spec.process;
  assert.ok(env.includes("A=image") && env.includes("B=request") && !env.includes("B=image"));
  assert.ok(env.some((one) => one.startsWith("PATH=/")));
  assert.throws(() => build({ env: [{ key: "X", value: "a\0b" }] }), { code: "INVALID" });
});

test("resolveContainerUser: USER, request and groups, merged or strict", () => {
  assert.deepEqual(build({}).user, { uid: 1000, gid: 500, supplementalGroups: [500, 50000] });
  const merged = withSecurity({ runAsUser: 1000, supplementalGroups: [1234] }).user;
  assert.deepEqual(merged, { uid: 1000, gid: 1000, supplementalGroups: [1000, 1234, 50000] });
  const strict = withSecurity({
    runAsUser: 1000,
    supplementalGroups: [1234],
    supplementalGroupsPolicy: "strict",
  }).user;
  assert.deepEqual(strict.supplementalGroups, [1000, 1234]);
  assert.throws(() => withSecurity({ runAsGroup: 5 }), { code: "INVALID" });
  assert.throws(() => withSecurity({ runAsUsername: "nobody" }), { code: "INVALID" });
});

test("resolveContainerUser: a number is a number, however an account is called, and never wraps to root", () => {
  assert.equal(withSecurity({ runAsUsername: "1234" }).user.uid, 1234);
  assert.throws(() => withSecurity({ runAsUsername: "4294967296" }), { code: "INVALID" });
  assert.throws(() => withSecurity({ runAsUsername: "bad" }), { code: "INVALID" });
});

test("capabilitySet: defaults, ALL, and a drop after an add", () => {
  const of = (built: BuiltSpec): readonly string[] => {
    const set = built.spec.process["capabilities"];
    assert.ok(typeof set === "object" && set !== null && "bounding" in set && Array.isArray(set.bounding));
    return set.bounding;
  };
  assert.equal(of(withSecurity({})).includes("CAP_NET_ADMIN"), false);
  assert.deepEqual(of(withSecurity({ dropCapabilities: ["ALL"] })), []);
  assert.deepEqual(of(withSecurity({ dropCapabilities: ["ALL"], addCapabilities: ["NET_RAW"] })), [
    "CAP_NET_RAW",
  ]);
  assert.equal(of(withSecurity({ addCapabilities: ["ALL"] })).length, allCapabilities.size);
  assert.equal(
    of(withSecurity({ addCapabilities: ["ALL"], dropCapabilities: ["SYS_ADMIN"] })).includes("CAP_SYS_ADMIN"),
    false,
  );
  assert.throws(() => withSecurity({ addCapabilities: ["FLY"] }), { code: "INVALID" });
});

test("buildOciSpec: the OOM score is not below the daemon's own", () => {
  assert.equal(build({}).spec.process["oomScoreAdj"], -5);
});

test("buildOciSpec: AppArmor's profile is in the process, for exec too; a microVM takes none by name", () => {
  const loaded = { appArmor: { kind: "loaded" } } as const;
  assert.equal(build({}, loaded).spec.process["apparmorProfile"], "tinderbox-default");
  const named = { security: { ...security, appArmor: { kind: "named", name: "mine" } } } as const;
  assert.equal(build(named, loaded).spec.process["apparmorProfile"], "mine");
  assert.throws(() => build(named, { place: "microvm" }), { code: "INVALID", message: /apparmor "mine"/ });
});

const mountOf = (containerPath: string, change: Partial<Mount> = {}): Mount => ({
  containerPath,
  source: { kind: "path", path: "/srv" },
  readonly: true,
  recursiveReadOnly: false,
  uidMappings: [],
  gidMappings: [],
  propagation: "rslave",
  ...change,
});

test("buildOciSpec: a microVM's volumes are named for its agent, and are bound as the host serves them", () => {
  const { mounts } = build({ mounts: [mountOf("/d")] }, { place: "microvm" }).spec;
  assert.ok(Array.isArray(mounts));
  const bound = mounts.find((one) => one.destination === "/d");
  assert.deepEqual([bound?.source, bound?.options], ["@volumes/0", ["rbind", "rprivate"]]);
});

test("buildOciSpec: a microVM refuses what is the host's, by the field's name", () => {
  const ids = [{ inside: 0, outside: 1000, length: 1 }];
  const source = { kind: "image", image: "x", subPath: "" } as const;
  assert.throws(
    () =>
      build(
        { mounts: [mountOf("/d", { source, uidMappings: ids, gidMappings: ids })] },
        { place: "microvm" },
      ),
    { code: "INVALID", message: /mounts\[0\]\.uidMappings of an image/ },
  );
  const hostPid = { ...security, pid: { mode: "node", targetId: "" } } as const;
  assert.throws(() => build({ security: hostPid }, { place: "microvm" }), {
    message: /namespace_options\.pid/,
  });
});

test("buildOciSpec: a requested mount takes the place of the standard one, parents first", () => {
  const { mounts, linux } = build({ mounts: [mountOf("/a/b"), mountOf("/a"), mountOf("/etc/hosts")] }).spec;
  assert.ok(Array.isArray(mounts));
  const at = mounts.map((one) => one.destination);
  assert.ok(at.indexOf("/a") < at.indexOf("/a/b"));
  assert.equal(at.filter((one) => one === "/etc/hosts").length, 1);
  assert.deepEqual(mounts.find((one) => one.destination === "/a")?.options, ["rbind", "rslave", "ro"]);
  assert.ok(typeof linux === "object" && linux !== null && "rootfsPropagation" in linux);
  assert.equal(linux.rootfsPropagation, "rslave");
});

test("containerLogPath: stays inside the pod's log directory", () => {
  assert.equal(containerLogPath("/var/log/pods/x/", "c/0.log"), "/var/log/pods/x/c/0.log");
  for (const bad of ["../x", "a/../../x", "/etc/passwd", "a//b", "."])
    assert.throws(() => containerLogPath("/var/log/pods/x", bad), { code: "INVALID" }, bad);
});

test("signalNumber: names, numbers and real-time offsets", () => {
  assert.deepEqual(
    ["SIGTERM", "quit", "9", "SIGRTMIN+3", "SIGRTMAX-1"].map(signalNumber),
    [15, 3, 9, 37, 63],
  );
  for (const bad of ["", "SIGNOPE", "0", "65", "RTMIN-1"])
    assert.throws(() => signalNumber(bad), { code: "INVALID" });
});

test("guestDevices: none in a microVM's pod with a user namespace, where the runtime would bind another drive", () => {
  const devices = [{ containerPath: "/dev/vda", hostPath: "/dev/loop0", permissions: "rw" }];
  const withDevice = { ...config, devices };
  assert.equal(guestDevices(pod, withDevice, noEdits)[0]?.containerPath, "/dev/vda");
  const user = { uids: [], gids: [] };
  const mapped = { ...pod, namespaces: { ...pod.namespaces, user } };
  assert.throws(() => guestDevices(mapped, withDevice, noEdits), {
    code: "UNSUPPORTED",
    message: /^devices\[0\]\.host_path "\/dev\/loop0": .*user namespace/,
  });
  assert.deepEqual(guestDevices(mapped, config, noEdits), []);
});
