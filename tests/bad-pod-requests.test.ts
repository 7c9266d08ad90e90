/** Impossible pods and containers over the real socket: the right code, a message naming the field, and nothing made. */
import { describe, test } from "node:test";
import { NamespaceMode } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import {
  assertRefused,
  type Case,
  type ContainerConfig,
  CriFixture,
  long,
  type PodConfig,
} from "./support/cri-fixture.ts";

const cri = new CriFixture();

const runPod =
  (change: PodConfig, runtimeHandler = "crun") =>
  (): Promise<unknown> =>
    cri.runtime.callUnary("runPodSandbox", { config: cri.pod(change), runtimeHandler });
const create = (change: ContainerConfig) => (): Promise<unknown> =>
  cri.runtime.callUnary("createContainer", { podSandboxId: cri.ids.pod, config: cri.container(change) });
const linux = (securityContext: NonNullable<NonNullable<ContainerConfig["linux"]>["securityContext"]>) =>
  create({ linux: { securityContext } });
const metadata = { name: "bad", namespace: "test", uid: "bad", attempt: 0 };
const at = "config.linux.security_context";

const podCases: readonly Case[] = [
  [
    "no config",
    () => cri.runtime.callUnary("runPodSandbox", {}),
    "INVALID",
    /^config: missing: it must be set$/,
  ],
  [
    "no metadata",
    () => cri.runtime.callUnary("runPodSandbox", { config: {} }),
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
    "a host port that no CNI plugin takes",
    runPod({ portMappings: [{ containerPort: 80, hostPort: 8080 }] }),
    "INVALID",
    /^port_mappings: host ports are asked for, but no plugin of the CNI network \w+ takes portMappings/,
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
    () => cri.runtime.callUnary("createContainer", { config: cri.container({}) }),
    "INVALID",
    /^pod_sandbox_id: "" is not allowed/,
  ],
  [
    "an unknown pod",
    () =>
      cri.runtime.callUnary("createContainer", { podSandboxId: "f".repeat(64), config: cri.container({}) }),
    "NOT_FOUND",
    /^pod "f+" does not exist/,
  ],
  [
    "a stopped pod",
    () =>
      cri.runtime.callUnary("createContainer", { podSandboxId: cri.ids.stopped, config: cri.container({}) }),
    "WRONG_STATE",
    /pod|sandbox/,
  ],
  [
    "no config",
    () => cri.runtime.callUnary("createContainer", { podSandboxId: cri.ids.pod }),
    "INVALID",
    /^config: missing/,
  ],
  [
    "no metadata",
    () =>
      cri.runtime.callUnary("createContainer", {
        podSandboxId: cri.ids.pod,
        config: { image: { image: cri.image } },
      }),
    "INVALID",
    /^config\.metadata: missing/,
  ],
  [
    "no image",
    () =>
      cri.runtime.callUnary("createContainer", {
        podSandboxId: cri.ids.pod,
        config: { metadata: { name: "x" } },
      }),
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
  [
    "a CDI device that is not there",
    create({ CDIDevices: [{ name: "a/b=c" }] }),
    "INVALID",
    /^config\.CDI_dev/,
  ],
  [
    "a CDI device without a vendor",
    create({ CDIDevices: [{ name: "c" }] }),
    "INVALID",
    /^config\.CDI_devices\[0\]/,
  ],
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
    "a target",
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
for (const [kind, cases] of Object.entries({ runPodSandbox: podCases, createContainer: containerCases })) {
  describe(`refused: ${kind}`, () => {
    for (const one of cases) test(one[0], () => assertRefused(one));
  });
}

test("nothing was made by any of them", () => cri.assertNothingMade());
