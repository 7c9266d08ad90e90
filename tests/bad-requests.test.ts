/** Impossible CRI requests over the real socket: the right code, a message naming the field, and nothing changed. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { TinderboxError } from "../packages/tinderbox/src/base/errors.ts";
import {
  type ContainerConfigSchema,
  ImageService,
  NamespaceMode,
  type PodSandboxConfigSchema,
  RuntimeService,
} from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { Images } from "../packages/tinderbox/src/rpc/gen/tinderbox/images/v1/images_pb.ts";
import { createGrpcClient, type GrpcClient } from "../packages/tinderbox/src/rpc/grpc-service.ts";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { diffSnapshots, formatDiff, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

type PodConfig = MessageInitShape<typeof PodSandboxConfigSchema>;
type ContainerConfig = MessageInitShape<typeof ContainerConfigSchema>;

const work = mkdtempSync("/tmp/tb-");
let registry: TestRegistry;
let cni: TestCni;
let daemon: TestDaemon;
let runtime: GrpcClient<typeof RuntimeService>;
let images: GrpcClient<typeof ImageService>;
let imports: GrpcClient<typeof Images>;
let image = "";
/** A pod with a container that runs, one that was made, and one that has exited */
const ids = { pod: "", running: "", created: "", exited: "", stopped: "" };
let snapshot: Snapshot;

const goodPod = (name: string): PodConfig => ({
  metadata: { name, namespace: "test", uid: name, attempt: 0 },
  logDirectory: join(work, "logs", name),
});
const pod = (change: PodConfig): PodConfig => Object.assign(goodPod("bad"), change);
const container = (change: ContainerConfig): ContainerConfig =>
  Object.assign(
    { metadata: { name: "bad", attempt: 0 }, image: { image }, command: ["sleep", "1000"] },
    change,
  );
const long = "x".repeat(5000);

before(async () => {
  registry = await startRegistry({ dir: join(work, "registry") });
  image = `${registry.host}/test/busybox:latest`;
  await pushBusyboxImage(registry.url, "test/busybox", "latest");
  cni = writeBridgeConf(join(work, "cni"));
  daemon = await startDaemon({
    root: join(work, "root"),
    state: join(work, "run"),
    configToml: `[cni]\nconf_dir = ${JSON.stringify(cni.confDir)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
  });
  const address = `unix://${daemon.socket}`;
  runtime = createGrpcClient(RuntimeService, address);
  images = createGrpcClient(ImageService, address);
  imports = createGrpcClient(Images, address);
  await images.callUnary("pullImage", { image: { image } });
  ids.pod = (
    await runtime.callUnary("runPodSandbox", { config: goodPod("good"), runtimeHandler: "crun" })
  ).podSandboxId;
  ids.stopped = (
    await runtime.callUnary("runPodSandbox", { config: goodPod("old"), runtimeHandler: "crun" })
  ).podSandboxId;
  await runtime.callUnary("stopPodSandbox", { podSandboxId: ids.stopped });
  for (const [name, command] of Object.entries({
    running: ["sleep", "1000"],
    created: ["true"],
    exited: ["true"],
  })) {
    const config = { metadata: { name, attempt: 0 }, image: { image }, command, logPath: `${name}.log` };
    const { containerId } = await runtime.callUnary("createContainer", {
      podSandboxId: ids.pod,
      config,
      sandboxConfig: goodPod("good"),
    });
    if (name !== "created") await runtime.callUnary("startContainer", { containerId });
    if (name === "exited") await runtime.callUnary("stopContainer", { containerId, timeout: 10n });
    ids[name as keyof typeof ids] = containerId;
  }
  snapshot = snapshotHost([work]);
});
after(async () => {
  runtime.close();
  images.close();
  imports.close();
  await daemon.stop();
  const again = await startDaemon({
    root: join(work, "root"),
    state: join(work, "run"),
    configToml: `[cni]\nconf_dir = ${JSON.stringify(cni.confDir)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
  });
  const client = createGrpcClient(RuntimeService, `unix://${again.socket}`);
  for (const podSandboxId of [ids.pod, ids.stopped])
    await client.callUnary("removePodSandbox", { podSandboxId });
  client.close();
  await again.stop();
  await registry.stop();
  cni.remove();
  rmSync(work, { recursive: true, force: true });
});

/** What is sent, by which code it is refused, and what the message says */
type Case = readonly [
  what: string,
  send: () => Promise<unknown>,
  code: TinderboxError["code"],
  message: RegExp,
];

const runPod =
  (change: PodConfig, runtimeHandler = "crun") =>
  (): Promise<unknown> =>
    runtime.callUnary("runPodSandbox", { config: pod(change), runtimeHandler });
const create = (change: ContainerConfig) => (): Promise<unknown> =>
  runtime.callUnary("createContainer", { podSandboxId: ids.pod, config: container(change) });
const linux = (securityContext: NonNullable<NonNullable<ContainerConfig["linux"]>["securityContext"]>) =>
  create({ linux: { securityContext } });
const metadata = { name: "bad", namespace: "test", uid: "bad", attempt: 0 };
const at = "config.linux.security_context";

const podCases: readonly Case[] = [
  ["no config", () => runtime.callUnary("runPodSandbox", {}), "INVALID", /^config: missing: it must be set$/],
  [
    "no metadata",
    () => runtime.callUnary("runPodSandbox", { config: {} }),
    "INVALID",
    /^config\.metadata: missing/,
  ],
  [
    "an empty name",
    runPod({ metadata: { ...metadata, name: "" } }),
    "INVALID",
    /^config\.metadata\.name: "" is not allowed: it must not be empty/,
  ],
  [
    "a long name",
    runPod({ metadata: { ...metadata, name: long } }),
    "INVALID",
    /^config\.metadata\.name: "x+\.\.\. is not allowed: at most 253 characters/,
  ],
  [
    "a name with a slash",
    runPod({ metadata: { ...metadata, name: "a/../b" } }),
    "INVALID",
    /^config\.metadata\.name: "a\/\.\.\/b" is not allowed: a name without slashes/,
  ],
  [
    "a name of dots",
    runPod({ metadata: { ...metadata, name: ".." } }),
    "INVALID",
    /^config\.metadata\.name: "\.\."/,
  ],
  [
    "NUL in a namespace",
    runPod({ metadata: { ...metadata, namespace: "a\0b" } }),
    "INVALID",
    /^config\.metadata\.namespace: "a\\u0000b" is not allowed: no control characters/,
  ],
  ["no uid", runPod({ metadata: { ...metadata, uid: "" } }), "INVALID", /^config\.metadata\.uid: "" /],
  [
    "what CNI's arguments cannot carry",
    runPod({ metadata: { ...metadata, name: "a;IP=1.2.3.4" } }),
    "INVALID",
    /K8S_POD_NAME "a;IP=1\.2\.3\.4"/,
  ],
  [
    "an unknown handler",
    runPod({}, "kata"),
    "INVALID",
    /^runtime handler "kata": crun, runc, firecracker are configured/,
  ],
  ["a handler with NUL", runPod({}, "cr\0un"), "INVALID", /^runtime handler "cr\\u0000un"/],
  [
    "a relative log directory",
    runPod({ logDirectory: "logs" }),
    "INVALID",
    /^config\.log_directory: "logs" is not allowed: an absolute path/,
  ],
  [
    "`..` in the log directory",
    runPod({ logDirectory: "/var/log/../../etc" }),
    "INVALID",
    /^config\.log_directory: .*without `\.\.`/,
  ],
  [
    "a long log directory",
    runPod({ logDirectory: `/${long}` }),
    "INVALID",
    /^config\.log_directory: .*at most 4096/,
  ],
  [
    "a hostname with a space",
    runPod({ hostname: "a b" }),
    "INVALID",
    /^config\.hostname: "a b" is not allowed/,
  ],
  ["a long hostname", runPod({ hostname: "x".repeat(65) }), "INVALID", /^config\.hostname: .*at most 64/],
  [
    "a DNS server that is a name",
    runPod({ dnsConfig: { servers: ["dns.test"] } }),
    "INVALID",
    /^config\.dns_config\.servers\[0\]: "dns\.test" is not allowed: an IPv4 or IPv6 address/,
  ],
  [
    "an option that is two lines",
    runPod({ dnsConfig: { options: ["a\nnameserver 1.2.3.4"] } }),
    "INVALID",
    /^config\.dns_config\.options\[0\]/,
  ],
  [
    "1000 DNS servers",
    runPod({ dnsConfig: { servers: Array.from({ length: 1000 }, () => "1.1.1.1") } }),
    "INVALID",
    /^config\.dns_config\.servers: 1000 is not allowed: at most 64/,
  ],
  [
    "port 0",
    runPod({ portMappings: [{ containerPort: 0, hostPort: 80 }] }),
    "INVALID",
    /^config\.port_mappings\[0\]\.container_port: 0 /,
  ],
  [
    "port 70000",
    runPod({ portMappings: [{ containerPort: 80, hostPort: 70000 }] }),
    "INVALID",
    /^config\.port_mappings\[0\]\.host_port: 70000 is not allowed: a number from 0 to 65535/,
  ],
  [
    "an unknown protocol",
    runPod({ portMappings: [{ protocol: 9 as never, containerPort: 80, hostPort: 80 }] }),
    "INVALID",
    /^config\.port_mappings\[0\]\.protocol: 9 /,
  ],
  [
    "a host IP that is none",
    runPod({ portMappings: [{ containerPort: 80, hostPort: 80, hostIp: "x" }] }),
    "INVALID",
    /^config\.port_mappings\[0\]\.host_ip/,
  ],
  [
    "a sysctl of the node",
    runPod({ linux: { sysctls: { "kernel.panic": "1" } } }),
    "INVALID",
    /^config\.linux\.sysctls\[kernel\.panic\]/,
  ],
  [
    "a sysctl that is a path",
    runPod({ linux: { sysctls: { "net.../../kernel/panic": "1" } } }),
    "INVALID",
    /^config\.linux\.sysctls/,
  ],
  [
    "a cgroup parent with `..`",
    runPod({ linux: { cgroupParent: "/a/../.." } }),
    "INVALID",
    /^config\.linux\.cgroup_parent/,
  ],
  [
    "a systemd slice",
    runPod({ linux: { cgroupParent: "kubepods.slice" } }),
    "INVALID",
    /^config\.linux\.cgroup_parent: "kubepods\.slice" .*cgroupfs/,
  ],
  [
    "a pod in a container's PID namespace",
    runPod({ linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.TARGET } } } }),
    "INVALID",
    /namespace_options\.pid/,
  ],
  [
    "a network mode that is none",
    runPod({ linux: { securityContext: { namespaceOptions: { network: 7 as never } } } }),
    "INVALID",
    /namespace_options\.network: 7 /,
  ],
  [
    "a user namespace",
    runPod({
      linux: { securityContext: { namespaceOptions: { usernsOptions: { mode: NamespaceMode.POD } } } },
    }),
    "INVALID",
    /userns_options\.uids: 0 is not allowed: exactly one mapping/,
  ],
  [
    "a group without a user",
    runPod({ linux: { securityContext: { runAsGroup: { value: 1n } } } }),
    "INVALID",
    /run_as_group: 1 is not allowed: only together with run_as_user/,
  ],
  [
    "a seccomp profile",
    runPod({ linux: { securityContext: { seccomp: { profileType: 2, localhostRef: "x" } } } }),
    "INVALID",
    /seccomp/,
  ],
  ["Windows", runPod({ windows: {} }), "UNSUPPORTED", /^config\.windows/],
  [
    "a microVM in the node's network",
    runPod(
      { linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } } },
      "firecracker",
    ),
    "INVALID",
    /namespace_options\.network NODE: not possible in a microVM/,
  ],
];

const containerCases: readonly Case[] = [
  [
    "no pod",
    () => runtime.callUnary("createContainer", { config: container({}) }),
    "INVALID",
    /^pod_sandbox_id: "" is not allowed/,
  ],
  [
    "an unknown pod",
    () => runtime.callUnary("createContainer", { podSandboxId: "f".repeat(64), config: container({}) }),
    "NOT_FOUND",
    /^pod "f+" does not exist/,
  ],
  [
    "a stopped pod",
    () => runtime.callUnary("createContainer", { podSandboxId: ids.stopped, config: container({}) }),
    "WRONG_STATE",
    /pod|sandbox/,
  ],
  [
    "no config",
    () => runtime.callUnary("createContainer", { podSandboxId: ids.pod }),
    "INVALID",
    /^config: missing/,
  ],
  [
    "no metadata",
    () => runtime.callUnary("createContainer", { podSandboxId: ids.pod, config: { image: { image } } }),
    "INVALID",
    /^config\.metadata: missing/,
  ],
  [
    "no image",
    () =>
      runtime.callUnary("createContainer", { podSandboxId: ids.pod, config: { metadata: { name: "x" } } }),
    "INVALID",
    /^config\.image: missing/,
  ],
  ["an empty image", create({ image: { image: "" } }), "INVALID", /^config\.image\.image: ""/],
  [
    "an image that is not here",
    create({ image: { image: "none.test/x:1" } }),
    "NOT_FOUND",
    /^image "none\.test\/x:1" is not on this node/,
  ],
  ["an empty name", create({ metadata: { name: "" } }), "INVALID", /^config\.metadata\.name/],
  [
    "NUL in a command",
    create({ command: ["a\0b"] }),
    "INVALID",
    /^config\.command\[0\]: "a\\u0000b" is not allowed: no NUL/,
  ],
  ["NUL in an argument", create({ args: ["x", "\0"] }), "INVALID", /^config\.args\[1\]/],
  ["a relative working directory", create({ workingDir: "x" }), "INVALID", /^config\.working_dir: "x"/],
  [
    "an environment name with =",
    create({ envs: [{ key: "A=B", value: "" }] }),
    "INVALID",
    /^config\.envs\[0\]\.key: "A=B"/,
  ],
  [
    "an empty environment name",
    create({ envs: [{ key: "", value: "x" }] }),
    "INVALID",
    /^config\.envs\[0\]\.key: ""/,
  ],
  [
    "NUL in the environment",
    create({ envs: [{ key: "A", value: "\0" }] }),
    "INVALID",
    /^config\.envs\[0\]\.value/,
  ],
  [
    "an absolute log path",
    create({ logPath: "/etc/passwd" }),
    "INVALID",
    /^config\.log_path: "\/etc\/passwd" is not allowed: a path relative to/,
  ],
  [
    "`..` in the log path",
    create({ logPath: "../../x.log" }),
    "INVALID",
    /^config\.log_path: "\.\.\/\.\.\/x\.log"/,
  ],
  ["NUL in the log path", create({ logPath: "a\0b" }), "INVALID", /^config\.log_path/],
  [
    "a relative mount point",
    create({ mounts: [{ containerPath: "x", hostPath: "/tmp" }] }),
    "INVALID",
    /^config\.mounts\[0\]\.container_path: "x"/,
  ],
  [
    "a relative host path",
    create({ mounts: [{ containerPath: "/x", hostPath: "tmp" }] }),
    "INVALID",
    /^config\.mounts\[0\]\.host_path: "tmp"/,
  ],
  [
    "`..` in a host path",
    create({ mounts: [{ containerPath: "/x", hostPath: "/tmp/../etc" }] }),
    "INVALID",
    /^config\.mounts\[0\]\.host_path/,
  ],
  [
    "a propagation that is none",
    create({ mounts: [{ containerPath: "/x", hostPath: "/tmp", propagation: 9 as never }] }),
    "INVALID",
    /^config\.mounts\[0\]\.propagation: 9/,
  ],
  [
    "an image volume that can be written",
    create({ mounts: [{ containerPath: "/x", image: { image: "x" } }] }),
    "INVALID",
    /^config\.mounts\[0\]\.readonly: false is not allowed/,
  ],
  [
    "a device with odd rights",
    create({ devices: [{ containerPath: "/dev/x", hostPath: "/dev/null", permissions: "rwx" }] }),
    "INVALID",
    /^config\.devices\[0\]\.permissions: "rwx"/,
  ],
  [
    "a device that is not there",
    create({ devices: [{ containerPath: "/dev/x", hostPath: "/dev/none", permissions: "r" }] }),
    "INVALID",
    /devices?\b.*\/dev\/none/,
  ],
  ["CDI devices", create({ CDIDevices: [{ name: "a/b=c" }] }), "UNSUPPORTED", /^config\.CDI_devices/],
  [
    "a negative uid",
    linux({ runAsUser: { value: -1n } }),
    "INVALID",
    new RegExp(`^${at}.run_as_user: -1 is not allowed: a number from 0 to 2147483647`),
  ],
  [
    "a uid beyond all",
    linux({ runAsUser: { value: 2n ** 62n } }),
    "INVALID",
    /run_as_user: 4611686018427387904 /,
  ],
  [
    "a user by number and by name",
    linux({ runAsUser: { value: 1n }, runAsUsername: "me" }),
    "INVALID",
    /run_as_username: "me" is not allowed: empty when run_as_user is set/,
  ],
  ["a group alone", linux({ runAsGroup: { value: 1n } }), "INVALID", /run_as_group: 1 /],
  ["a user that is not in the image", linux({ runAsUsername: "nobody-here" }), "INVALID", /nobody-here/],
  [
    "a capability that is none",
    linux({ capabilities: { addCapabilities: ["SYS ADMIN"] } }),
    "INVALID",
    /add_capabilities\[0\]: "SYS ADMIN"/,
  ],
  [
    "a privileged container in a plain pod",
    linux({ privileged: true }),
    "INVALID",
    new RegExp(`^${at}.privileged: true`),
  ],
  [
    "the node's network in a pod with its own",
    linux({ namespaceOptions: { network: NamespaceMode.NODE } }),
    "INVALID",
    /namespace_options\.network/,
  ],
  [
    "a target that is not named",
    linux({ namespaceOptions: { pid: NamespaceMode.TARGET } }),
    "INVALID",
    /namespace_options\.target_id: ""/,
  ],
  [
    "a target that is not there",
    linux({ namespaceOptions: { pid: NamespaceMode.TARGET, targetId: "f".repeat(64) } }),
    "NOT_FOUND",
    /container "f{64}" does not exist/,
  ],
  [
    "an AppArmor profile",
    linux({ apparmor: { profileType: 2, localhostRef: "x" } }),
    "UNSUPPORTED",
    /apparmor/,
  ],
  [
    "a negative CPU period",
    create({ linux: { resources: { cpuPeriod: -1n } } }),
    "INVALID",
    /^config\.linux\.resources\.cpu_period: -1/,
  ],
  [
    "memory beyond all numbers",
    create({ linux: { resources: { memoryLimitInBytes: 2n ** 63n - 1n } } }),
    "INVALID",
    /memory_limit_in_bytes/,
  ],
  [
    "an oom_score_adj beyond the kernel's",
    create({ linux: { resources: { oomScoreAdj: 1001n } } }),
    "INVALID",
    /oom_score_adj: 1001 is not allowed: a number from -1000 to 1000/,
  ],
  [
    "a CPU list that is none",
    create({ linux: { resources: { cpusetCpus: "0-" } } }),
    "INVALID",
    /cpuset_cpus: "0-"/,
  ],
  ["a stop signal that is none", create({ stopSignal: 99 as never }), "INVALID", /stop_signal/],
];

const byId = (
  method:
    | "startContainer"
    | "stopContainer"
    | "removeContainer"
    | "containerStatus"
    | "reopenContainerLog"
    | "containerStats",
): Case[] => [
  [
    `${method}: no id`,
    () => runtime.callUnary(method, { containerId: "" }),
    "INVALID",
    /^container_id: "" is not allowed/,
  ],
  [
    `${method}: an id that is a path`,
    () => runtime.callUnary(method, { containerId: "../../x" }),
    "INVALID",
    /^container_id: "\.\.\/\.\.\/x"/,
  ],
  [
    `${method}: a long id`,
    () => runtime.callUnary(method, { containerId: long }),
    "INVALID",
    /^container_id: "x+\.\.\./,
  ],
  [`${method}: NUL`, () => runtime.callUnary(method, { containerId: "a\0" }), "INVALID", /^container_id/],
];
const byPodId = (
  method: "stopPodSandbox" | "removePodSandbox" | "podSandboxStatus" | "podSandboxStats",
): Case[] => [
  [
    `${method}: no id`,
    () => runtime.callUnary(method, { podSandboxId: "" }),
    "INVALID",
    /^pod_sandbox_id: "" is not allowed/,
  ],
  [
    `${method}: an id that is a path`,
    () => runtime.callUnary(method, { podSandboxId: "a/b" }),
    "INVALID",
    /^pod_sandbox_id: "a\/b"/,
  ],
];
const unknown = "f".repeat(64);

const otherCases: readonly Case[] = [
  ...(
    [
      "startContainer",
      "stopContainer",
      "removeContainer",
      "containerStatus",
      "reopenContainerLog",
      "containerStats",
    ] as const
  ).flatMap(byId),
  ...(["stopPodSandbox", "removePodSandbox", "podSandboxStatus", "podSandboxStats"] as const).flatMap(
    byPodId,
  ),
  ...(["startContainer", "containerStatus", "reopenContainerLog", "containerStats"] as const).map(
    (method): Case => [
      `${method}: unknown`,
      () => runtime.callUnary(method, { containerId: unknown }),
      "NOT_FOUND",
      /^container "f+" does not exist/,
    ],
  ),
  ...(["podSandboxStatus", "podSandboxStats"] as const).map(
    (method): Case => [
      `${method}: unknown`,
      () => runtime.callUnary(method, { podSandboxId: unknown }),
      "NOT_FOUND",
      /^pod "f+" does not exist/,
    ],
  ),
  [
    "startContainer: it runs",
    () => runtime.callUnary("startContainer", { containerId: ids.running }),
    "WRONG_STATE",
    /is running/,
  ],
  [
    "startContainer: it has exited",
    () => runtime.callUnary("startContainer", { containerId: ids.exited }),
    "WRONG_STATE",
    /exited/,
  ],
  [
    "stopContainer: a negative time",
    () => runtime.callUnary("stopContainer", { containerId: ids.running, timeout: -1n }),
    "INVALID",
    /^timeout: -1 /,
  ],
  [
    "reopenContainerLog: it has exited",
    () => runtime.callUnary("reopenContainerLog", { containerId: ids.exited }),
    "WRONG_STATE",
    /exited|running/,
  ],
  [
    "updateContainerResources: nothing",
    () => runtime.callUnary("updateContainerResources", { containerId: ids.running }),
    "INVALID",
    /^linux: missing/,
  ],
  [
    "updateContainerResources: Windows",
    () => runtime.callUnary("updateContainerResources", { containerId: ids.running, windows: {} }),
    "UNSUPPORTED",
    /^windows/,
  ],
  [
    "updateContainerResources: negative",
    () =>
      runtime.callUnary("updateContainerResources", {
        containerId: ids.running,
        linux: { memoryLimitInBytes: -5n },
      }),
    "INVALID",
    /^linux\.memory_limit_in_bytes: -5/,
  ],
  [
    "updateContainerResources: unknown",
    () => runtime.callUnary("updateContainerResources", { containerId: unknown, linux: {} }),
    "NOT_FOUND",
    /does not exist/,
  ],
  [
    "execSync: no command",
    () => runtime.callUnary("execSync", { containerId: ids.running }),
    "INVALID",
    /^cmd: missing/,
  ],
  [
    "execSync: NUL",
    () => runtime.callUnary("execSync", { containerId: ids.running, cmd: ["a", "\0"] }),
    "INVALID",
    /^cmd\[1\]/,
  ],
  [
    "execSync: a negative time",
    () => runtime.callUnary("execSync", { containerId: ids.running, cmd: ["true"], timeout: -1n }),
    "INVALID",
    /^timeout: -1/,
  ],
  [
    "execSync: it does not run",
    () => runtime.callUnary("execSync", { containerId: ids.created, cmd: ["true"] }),
    "WRONG_STATE",
    /created|running/,
  ],
  [
    "execSync: unknown",
    () => runtime.callUnary("execSync", { containerId: unknown, cmd: ["true"] }),
    "NOT_FOUND",
    /does not exist/,
  ],
  [
    "execSync: no such program",
    () => runtime.callUnary("execSync", { containerId: ids.running, cmd: ["/none"] }),
    "RUNTIME",
    /\/none/,
  ],
  [
    "exec: no stream",
    () => runtime.callUnary("exec", { containerId: ids.running, cmd: ["true"] }),
    "INVALID",
    /^stdin, stdout, stderr: false is not allowed: at least one/,
  ],
  [
    "exec: a terminal with stderr",
    () =>
      runtime.callUnary("exec", {
        containerId: ids.running,
        cmd: ["true"],
        tty: true,
        stdout: true,
        stderr: true,
      }),
    "INVALID",
    /^stderr: true is not allowed: false with tty/,
  ],
  [
    "exec: it has exited",
    () => runtime.callUnary("exec", { containerId: ids.exited, cmd: ["true"], stdout: true }),
    "WRONG_STATE",
    /is exited/,
  ],
  [
    "attach: it has exited",
    () => runtime.callUnary("attach", { containerId: ids.exited, stdout: true }),
    "WRONG_STATE",
    /is exited/,
  ],
  ["portForward: no pod", () => runtime.callUnary("portForward", {}), "INVALID", /^pod_sandbox_id/],
  [
    "portForward: port 0",
    () => runtime.callUnary("portForward", { podSandboxId: ids.pod, port: [0] }),
    "INVALID",
    /^port\[0\]: 0 /,
  ],
  [
    "portForward: a stopped pod",
    () => runtime.callUnary("portForward", { podSandboxId: ids.stopped, port: [80] }),
    "WRONG_STATE",
    /not ready/,
  ],
  [
    "checkpointContainer: not offered",
    () => runtime.callUnary("checkpointContainer", { containerId: ids.running }),
    "UNSUPPORTED",
    /containers are not checkpointed/,
  ],
  ["imageStatus: nothing", () => images.callUnary("imageStatus", {}), "INVALID", /^image: missing/],
  [
    "imageStatus: an empty name",
    () => images.callUnary("imageStatus", { image: { image: "" } }),
    "INVALID",
    /^image\.image: ""/,
  ],
  ["pullImage: nothing", () => images.callUnary("pullImage", {}), "INVALID", /^image: missing/],
  [
    "pullImage: capitals",
    () => images.callUnary("pullImage", { image: { image: "UPPER" } }),
    "IMAGE_REFERENCE",
    /^image "UPPER": .*lower-case/,
  ],
  [
    "pullImage: a short digest",
    () => images.callUnary("pullImage", { image: { image: "x@sha256:12" } }),
    "IMAGE_REFERENCE",
    /digest/,
  ],
  [
    "pullImage: a path",
    () => images.callUnary("pullImage", { image: { image: "oci-archive:/etc/shadow" } }),
    "IMAGE_REFERENCE",
    /^image "oci-archive:\/etc\/shadow"/,
  ],
  [
    "pullImage: another path",
    () => images.callUnary("pullImage", { image: { image: "../../etc/passwd" } }),
    "IMAGE_REFERENCE",
    /^image "\.\.\/\.\.\/etc\/passwd"/,
  ],
  [
    "pullImage: NUL",
    () => images.callUnary("pullImage", { image: { image: "a\0" } }),
    "INVALID",
    /^image\.image/,
  ],
  [
    "pullImage: a long name",
    () => images.callUnary("pullImage", { image: { image: long } }),
    "INVALID",
    /^image\.image: .*at most 1024/,
  ],
  ["removeImage: nothing", () => images.callUnary("removeImage", {}), "INVALID", /^image: missing/],
  [
    "import: no transport",
    () => imports.callUnary("import", { path: "/x" }),
    "INVALID",
    /^transport: "": one of oci, oci-archive, docker-archive/,
  ],
  [
    "import: a relative path",
    () => imports.callUnary("import", { transport: "oci", path: "x" }),
    "INVALID",
    /^path: "x": an absolute path/,
  ],
  ["import: NUL", () => imports.callUnary("import", { transport: "oci", path: "/x\0" }), "INVALID", /^path/],
  [
    "import: a bad name",
    () => imports.callUnary("import", { transport: "oci", path: "/x", name: "UP" }),
    "IMAGE_REFERENCE",
    /"UP"/,
  ],
  [
    "import: not there",
    () => imports.callUnary("import", { transport: "oci", path: "/none" }),
    "NOT_FOUND",
    /^oci:\/none: oci-layout is not there/,
  ],
];

for (const [kind, cases] of Object.entries({
  runPodSandbox: podCases,
  createContainer: containerCases,
  others: otherCases,
})) {
  describe(`refused: ${kind}`, () => {
    for (const [what, send, code, message] of cases) {
      test(what, async () => {
        await assert.rejects(send(), (error: unknown) => {
          assert.ok(error instanceof TinderboxError);
          assert.match(error.message, message);
          assert.equal(error.code, code, error.message);
          return true;
        });
      });
    }
  });
}

describe("not wrong", () => {
  test("ending what is not there, again and again", async () => {
    for (let n = 0; n < 2; n++) {
      await runtime.callUnary("stopContainer", { containerId: unknown, timeout: 0n });
      await runtime.callUnary("removeContainer", { containerId: unknown });
      await runtime.callUnary("stopPodSandbox", { podSandboxId: unknown });
      await runtime.callUnary("removePodSandbox", { podSandboxId: unknown });
      await runtime.callUnary("stopPodSandbox", { podSandboxId: ids.stopped });
      await images.callUnary("removeImage", { image: { image: "none.test/x:1" } });
    }
    assert.equal(
      (await images.callUnary("imageStatus", { image: { image: "none.test/x:1" } })).image,
      undefined,
    );
  });

  test("lists by filters that nothing fits", async () => {
    assert.deepEqual((await runtime.callUnary("listPodSandbox", { filter: { id: "../x" } })).items, []);
    assert.deepEqual((await runtime.callUnary("listContainers", { filter: { id: "\0" } })).containers, []);
  });
});

test("a message over the kubelet's limit is refused, and the daemon goes on", async () => {
  await assert.rejects(
    runtime.callUnary("execSync", { containerId: ids.running, cmd: ["true", "x".repeat(17 << 20)] }),
    { code: "LIMIT" },
  );
  await assert.rejects(
    runtime.callUnary("runPodSandbox", { config: pod({ labels: { x: "y".repeat(17 << 20) } }) }),
    { code: "LIMIT" },
  );
  assert.equal((await runtime.callUnary("version", {})).runtimeName, "tinderbox");
});

test("nothing was made by any of them", async () => {
  const pods = (await runtime.callUnary("listPodSandbox", {})).items.map(({ id }) => id);
  assert.deepEqual(pods.toSorted(), [ids.pod, ids.stopped].toSorted());
  const containers = (await runtime.callUnary("listContainers", {})).containers.map(({ id }) => id);
  assert.deepEqual(containers.toSorted(), [ids.created, ids.exited, ids.running].toSorted());
  const differences = diffSnapshots(snapshot, snapshotHost([work])).filter(({ added }) => added.length > 0);
  assert.deepEqual(differences, [], formatDiff(snapshot, differences));
  assert.equal(
    execFileSync("find", ["/etc", "-newer", daemon.socket, "-name", "*.log"], { encoding: "utf8" }),
    "",
  );
});
