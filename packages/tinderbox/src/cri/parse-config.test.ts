import assert from "node:assert/strict";
import { test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  AuthConfigSchema,
  ContainerConfigSchema,
  NamespaceMode,
  PodSandboxConfigSchema,
  Signal,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { credentialsFor } from "./image-credentials.ts";
import { parseContainerConfig } from "./parse-container-config.ts";
import { parsePodConfig } from "./parse-pod-config.ts";

type PodInit = Exclude<MessageInitShape<typeof PodSandboxConfigSchema>, { $typeName: string }>;
type ContainerInit = Exclude<MessageInitShape<typeof ContainerConfigSchema>, { $typeName: string }>;

const metadata = { name: "p", uid: "u", namespace: "n" };
const pod = (init: PodInit = {}) => {
  const whole: PodInit = { metadata, ...init };
  return parsePodConfig(create(PodSandboxConfigSchema, whole));
};
const container = (init: ContainerInit = {}) => {
  const whole: ContainerInit = { metadata: { name: "c" }, image: { image: "i" }, ...init };
  return parseContainerConfig(create(ContainerConfigSchema, whole), pod(), ["crun"]);
};

test("parsePodConfig: without options every namespace is the pod's own, a host port of 0 is none", () => {
  const parsed = pod({ portMappings: [{ containerPort: 80 }, { containerPort: 81, hostPort: 8081 }] });
  assert.deepEqual(parsed.namespaces, { network: "pod", pid: "pod", ipc: "pod" });
  assert.deepEqual(
    parsed.portMappings.map(({ containerPort }) => containerPort),
    [81],
  );
});

test("parseContainerConfig: numbers, signals and modes become our words", () => {
  const parsed = container({
    stopSignal: Signal.SIGRTMINPLUS3,
    linux: {
      resources: { cpuQuota: -1n, memoryLimitInBytes: 1n << 33n },
      securityContext: {
        runAsUser: { value: 0n },
        capabilities: { addCapabilities: ["cap_net_admin", "ALL"] },
        namespaceOptions: { pid: NamespaceMode.CONTAINER },
      },
    },
  });
  assert.equal(parsed.stopSignal, "SIGRTMIN+3");
  assert.equal(parsed.resources.memoryLimitBytes, 2 ** 33);
  assert.equal(parsed.security.runAsUser, 0);
  assert.equal(parsed.security.runAsGroup, undefined);
  assert.deepEqual(parsed.security.addCapabilities, ["NET_ADMIN", "ALL"]);
  assert.deepEqual(parsed.security.pid, { mode: "container", targetId: "" });
});

const idMap = [{ containerId: 0, hostId: 100_000, length: 65_536 }];

const refusedPods: readonly (readonly [PodInit, string, RegExp])[] = [
  [{ metadata: { ...metadata, name: "" } }, "INVALID", /^config\.metadata\.name: "" is not allowed/],
  [{ logDirectory: "logs" }, "INVALID", /^config\.log_directory: "logs".*absolute path/],
  [{ hostname: "a b" }, "INVALID", /^config\.hostname/],
  [{ dnsConfig: { searches: ["a\nnameserver 6.6.6.6"] } }, "INVALID", /^config\.dns_config\.searches\[0\]/],
  [
    { portMappings: [{ containerPort: 70000 }] },
    "INVALID",
    /^config\.port_mappings\[0\]\.container_port: 70000.*1 to 65535/,
  ],
  [{ linux: { cgroupParent: "kubepods-pod1.slice" } }, "INVALID", /^config\.linux\.cgroup_parent.*cgroupfs/],
  [
    { linux: { sysctls: { "kernel.core_pattern": "|/x" } } },
    "INVALID",
    /^config\.linux\.sysctls\[kernel\.core_pattern\]/,
  ],
  [
    { linux: { sysctls: { "kernel.shmmax": "1+kernel.core_pattern=\n" } } },
    "INVALID",
    /no control characters/,
  ],
  [
    {
      linux: {
        sysctls: { "net.core.somaxconn": "1" },
        securityContext: { namespaceOptions: { network: NamespaceMode.NODE } },
      },
    },
    "INVALID",
    /its own network namespace/,
  ],
  [
    { linux: { securityContext: { namespaceOptions: { usernsOptions: { mode: NamespaceMode.POD } } } } },
    "INVALID",
    /userns_options\.uids: 0 .* exactly one mapping/,
  ],
  [
    {
      linux: {
        securityContext: {
          namespaceOptions: {
            network: NamespaceMode.NODE,
            usernsOptions: { mode: NamespaceMode.POD, uids: idMap, gids: idMap },
          },
        },
      },
    },
    "INVALID",
    /namespace_options\.network: 2 .* user namespace/,
  ],
  [
    { linux: { securityContext: { selinuxOptions: { level: "s0" } } } },
    "UNSUPPORTED",
    /selinux_options: "s0"/,
  ],
];

const nodeNetwork = { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } };
const ignored: readonly (readonly [PodInit, string, RegExp])[] = [
  [{ hostname: "not-the-nodes", linux: nodeNetwork }, "INVALID", /^config\.hostname: "not-the-nodes"/],
  [
    { portMappings: [{ containerPort: 1, hostPort: 2 }], linux: nodeNetwork },
    "INVALID",
    /^config\.port_mappings\[0\]\.host_port: 2/,
  ],
  [
    { linux: { resources: { cpusetCpus: "0" } } },
    "UNSUPPORTED",
    /^config\.linux\.resources\.cpuset_cpus: "0"/,
  ],
  [{ linux: { securityContext: { supplementalGroups: [-1n] } } }, "INVALID", /supplemental_groups\[0\]: -1/],
  [
    { linux: { securityContext: { seccomp: { profileType: 0, localhostRef: "p" } } } },
    "INVALID",
    /seccomp\.localhost_ref: "p" .* empty unless/,
  ],
];

const refusedContainers: readonly (readonly [ContainerInit, string, RegExp])[] = [
  [{ image: {} }, "INVALID", /^config\.image\.image/],
  [{ image: { image: "i", imageRef: "r" } }, "INVALID", /^config\.image\.image_ref: "r"/],
  [
    { image: { image: "i", runtimeHandler: "kata" } },
    "INVALID",
    /^config\.image\.runtime_handler: "kata" .*one of crun/,
  ],
  [
    { linux: { securityContext: { namespaceOptions: { targetId: "x" } } } },
    "INVALID",
    /namespace_options\.target_id: "x" .* unless pid is 3/,
  ],
  [{ logPath: "../x" }, "INVALID", /^config\.log_path: "\.\.\/x"/],
  [{ envs: [{ key: "A=B", value: "" }] }, "INVALID", /^config\.envs\[0\]\.key/],
  [{ args: ["a\0b"] }, "INVALID", /^config\.args\[0\]/],
  [
    { linux: { securityContext: { runAsUser: { value: 4294967296n } } } },
    "INVALID",
    /run_as_user: 4294967296.*0 to 2147483647/,
  ],
  [{ linux: { securityContext: { runAsGroup: { value: 1n } } } }, "INVALID", /run_as_group/],
  [{ linux: { securityContext: { privileged: true } } }, "INVALID", /security_context\.privileged/],
  [
    { linux: { securityContext: { seccomp: { profileType: 2, localhostRef: "p" } } } },
    "INVALID",
    /seccomp.localhost_ref: "p"/,
  ],
  [
    { linux: { securityContext: { apparmorProfile: "localhost/x" } } },
    "UNSUPPORTED",
    /apparmor: "Localhost x" .* AppArmor is not enabled/,
  ],
  [
    {
      devices: [
        { containerPath: "/dev/x", hostPath: "/dev/null", permissions: "r" },
        { containerPath: "/dev/x", hostPath: "/dev/zero", permissions: "r" },
      ],
    },
    "INVALID",
    /devices\[1\]\.container_path: "\/dev\/x"/,
  ],
  [
    { mounts: [{ containerPath: "/a", hostPath: "/b", recursiveReadOnly: true }] },
    "INVALID",
    /^config\.mounts\[0\]\.recursive_read_only: true .* only with readonly/,
  ],
  [{ mounts: [{ containerPath: "/a", image: { image: "x" } }] }, "INVALID", /config\.mounts\[0\]\.readonly/],
  [
    { mounts: [{ containerPath: "/a", image: { image: "x" }, readonly: true, imageSubPath: "../b" }] },
    "INVALID",
    /config\.mounts\[0\]\.image_sub_path: "\.\.\/b"/,
  ],
  [
    { mounts: [{ containerPath: "/a", hostPath: "/b", uidMappings: idMap }] },
    "INVALID",
    /config\.mounts\[0\]\.gidMappings/,
  ],
  [
    {
      linux: {
        securityContext: {
          namespaceOptions: { usernsOptions: { mode: NamespaceMode.POD, uids: idMap, gids: idMap } },
        },
      },
    },
    "INVALID",
    /userns_options: .* what the pod was made with/,
  ],
  [{ mounts: [{ containerPath: "a", hostPath: "/b" }] }, "INVALID", /config\.mounts\[0\]\.container_path/],
];

for (const [init, code, message] of [...refusedPods, ...ignored]) {
  test(`parsePodConfig: refuses ${message.source}`, () => assert.throws(() => pod(init), { code, message }));
}
for (const [init, code, message] of refusedContainers) {
  test(`parseContainerConfig: refuses ${message.source}`, () =>
    assert.throws(() => container(init), { code, message }));
}

test("credentialsFor: a user's name, a password with a colon in it, and whose they are", () => {
  const auth = create(AuthConfigSchema, {
    auth: Buffer.from("u:p:q").toString("base64"),
    serverAddress: "https://index.docker.io/v1/",
  });
  assert.deepEqual(credentialsFor(auth), {
    auth: { kind: "basic", username: "u", password: "p:q" },
    authServer: "https://index.docker.io/v1/",
  });
  assert.deepEqual(credentialsFor(undefined), {});
});
