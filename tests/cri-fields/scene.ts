/** One pod of a handler with a few containers in it that between them set every field which can be obeyed. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { openStream } from "../../packages/tinderbox/src/cli/stream-client.ts";
import {
  type ContainerStatus,
  MountPropagation,
  NamespaceMode,
  type PodSandboxStatus,
  Protocol,
  SecurityProfile_ProfileType,
  Signal,
  SupplementalGroupsPolicy,
} from "../../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import type { ContainerInit, PodInit, TestContainer, TestCri } from "../support/cri-client.ts";
import { type Handler, type Place, placeOf } from "./row.ts";

/** Of the user namespace, on the host */
export const outsideRoot = 300_000;
export const idMap = [{ containerId: 0, hostId: outsideRoot, length: 65_536 }];
export const ports = { tcp: 20_180, udp: 20_181, container: 80 } as const;
export const cpu = 100_000n;
export const mib = 1n << 20n;

/** Where things are, and what is the same for every handler. */
export type Stage = {
  readonly cri: TestCri;
  readonly work: string;
  /** busybox with a user `member`, 1234, whom /etc/group puts into 4567 as well */
  readonly image: string;
  /** An address of the host */
  readonly hostIp: string;
  /** Where the daemon looks for CDI devices */
  readonly cdiSpecDir: string;
  /** Absolute, of no other test */
  readonly cgroupParent: string;
};

type Containers = Readonly<
  Record<
    "plain" | "user" | "member" | "privileged" | "terminal" | "open" | "once" | "stopping",
    TestContainer
  >
>;

export class Scene {
  readonly handler: Handler;
  readonly stage: Stage;
  readonly config: PodInit & { readonly logDirectory: string };
  readonly volume: string;
  podId = "";
  /** A loop device, in a scene of a microVM */
  loop = "";
  #containers: Containers | undefined;

  constructor(handler: Handler, stage: Stage) {
    this.handler = handler;
    this.stage = stage;
    this.volume = join(stage.work, `volume-${handler}`);
    const amounts = { cpuPeriod: cpu, cpuQuota: cpu, cpuShares: 512n, unified: { "memory.oom.group": "1" } };
    this.config = stage.cri.podConfig({
      metadata: { name: "fields", namespace: "space", uid: `uid-${handler}`, attempt: 2 },
      hostname: "fieldhost",
      dnsConfig: { servers: ["192.0.2.53"], searches: ["fields.test"], options: ["ndots:3"] },
      portMappings: [
        {
          protocol: Protocol.TCP,
          containerPort: ports.container,
          hostPort: ports.tcp,
          hostIp: stage.hostIp,
        },
        { protocol: Protocol.UDP, containerPort: ports.container, hostPort: ports.udp },
      ],
      labels: { "pod-label": "1" },
      annotations: { "pod-annotation": "2" },
      linux: {
        cgroupParent: stage.cgroupParent,
        sysctls: { "net.ipv4.ip_unprivileged_port_start": "77", "kernel.shmmni": "99" },
        resources: { ...amounts, memoryLimitInBytes: 400n * mib },
        overhead: { ...amounts, memoryLimitInBytes: 200n * mib },
        securityContext: {
          privileged: true,
          namespaceOptions: { pid: NamespaceMode.POD },
          runAsUser: { value: 1000n },
          runAsGroup: { value: 1000n },
          supplementalGroups: [1000n],
          supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict,
          readonlyRootfs: true,
          seccomp: { profileType: SecurityProfile_ProfileType.RuntimeDefault },
        },
      },
    });
  }

  get place(): Place {
    return placeOf(this.handler);
  }

  get cri(): TestCri {
    return this.stage.cri;
  }

  get c(): Containers {
    assert.ok(this.#containers);
    return this.#containers;
  }

  async start(): Promise<void> {
    const { cri, stage, config } = this;
    mkdirSync(join(this.volume, "below"), { recursive: true });
    mkdirSync(join(this.volume, "slave"));
    writeFileSync(join(this.volume, "given"), "given\n");
    mountTmpfs(join(this.volume, "below"));
    mountTmpfs(join(this.volume, "slave"));
    execFileSync("mount", ["--make-shared", join(this.volume, "slave")]);
    const seccompFile = join(stage.work, "no-mkdir.json");
    const denied = [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: 1 }];
    writeFileSync(seccompFile, JSON.stringify({ defaultAction: "SCMP_ACT_ALLOW", syscalls: denied }));
    this.podId = await cri.runPod(this.handler, config);
    const own = { namespaceOptions: { pid: NamespaceMode.CONTAINER } };
    const shared = { namespaceOptions: { pid: NamespaceMode.POD } };
    const run = (more: ContainerInit): Promise<TestContainer> =>
      cri.start(this.podId, config, stage.image, more);
    const plain = await run({
      metadata: { name: "plain", attempt: 3 },
      image: {
        image: stage.image,
        annotations: { "image-annotation": "3" },
        userSpecifiedImage: "as.the.user/wrote:it",
        runtimeHandler: this.handler,
      },
      command: ["sh"],
      args: ["-c", 'echo "$0 $1"; exec sleep 1000', "zero", "one"],
      workingDir: "/tmp",
      envs: [{ key: "FIELD", value: "value=1" }],
      mounts: [
        { containerPath: "/volume", hostPath: this.volume, selinuxRelabel: true },
        { containerPath: "/ro", hostPath: this.volume, readonly: true },
        { containerPath: "/rro", hostPath: this.volume, readonly: true, recursiveReadOnly: true },
        {
          containerPath: "/slave",
          hostPath: join(this.volume, "slave"),
          propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
        },
        {
          containerPath: "/part",
          image: {
            image: stage.image,
            annotations: { "volume-annotation": "4" },
            userSpecifiedImage: "a.volume/wrote:it",
            runtimeHandler: this.handler,
          },
          imageSubPath: "etc",
          readonly: true,
        },
      ],
      devices: [
        {
          containerPath: "/dev/mine",
          // On the host one that runc does not allow by itself, as it does /dev/net/tun.
          hostPath: this.place === "host" ? "/dev/loop-control" : this.#attachLoop(),
          permissions: "r",
        },
      ],
      labels: { "container-label": "5" },
      annotations: { "container-annotation": "6" },
      logPath: "deep/plain.log",
      linux: {
        resources: {
          cpuPeriod: cpu / 2n,
          cpuQuota: cpu / 4n,
          cpuShares: 512n,
          memoryLimitInBytes: 64n * mib,
          memorySwapLimitInBytes: 96n * mib,
          oomScoreAdj: 500n,
          cpusetCpus: "0",
          cpusetMems: "0",
          hugepageLimits: [{ pageSize: "2MB", limit: 4n * mib }],
          ...(this.place === "microvm" && { unified: { "memory.high": String(48n * mib) } }),
        },
        securityContext: {
          ...own,
          capabilities: { addCapabilities: ["NET_ADMIN"], dropCapabilities: ["CHOWN"] },
          noNewPrivs: true,
          maskedPaths: ["/proc/version"],
          readonlyPaths: ["/root"],
          seccomp: { profileType: SecurityProfile_ProfileType.Localhost, localhostRef: seccompFile },
        },
      },
    });
    const user = await run({
      linux: {
        securityContext: {
          ...shared,
          runAsUser: { value: 1234n },
          runAsGroup: { value: 2345n },
          supplementalGroups: [3456n],
          supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict,
          capabilities: { addAmbientCapabilities: ["NET_RAW"] },
          seccomp: { profileType: SecurityProfile_ProfileType.RuntimeDefault },
        },
      },
    });
    const member = await run({
      linux: {
        securityContext: {
          namespaceOptions: { pid: NamespaceMode.TARGET, targetId: plain.id },
          runAsUsername: "member",
          readonlyRootfs: true,
          seccompProfilePath: "runtime/default",
        },
      },
    });
    const privileged = await run({
      linux: {
        securityContext: {
          ...shared,
          privileged: true,
          maskedPaths: ["/proc/version"],
          readonlyPaths: ["/root"],
          seccomp: { profileType: SecurityProfile_ProfileType.RuntimeDefault },
        },
      },
    });
    const terminal = await run({ tty: true, linux: { securityContext: own } });
    const greet = [
      "sh",
      "-c",
      "while read line; do echo got $line; done; echo end of input; exec sleep 1000",
    ];
    const open = await run({ command: greet, stdin: true, linux: { securityContext: own } });
    const once = await run({
      command: greet,
      stdin: true,
      stdinOnce: true,
      linux: { securityContext: own },
    });
    const stopping = await run({
      command: ["sh", "-c", "trap 'echo told to end; exit 0' USR1; while :; do sleep 1000 & wait $!; done"],
      stopSignal: Signal.SIGUSR1,
      linux: { securityContext: own },
    });
    this.#containers = { plain, user, member, privileged, terminal, open, once, stopping };
  }

  /** A block device with a line on it. */
  #attachLoop(): string {
    const file = join(this.stage.work, "device.img");
    const bytes = Buffer.alloc(Number(mib));
    bytes.write("on the device\n");
    writeFileSync(file, bytes);
    this.loop = execFileSync("losetup", ["--find", "--show", file], { encoding: "utf8" }).trim();
    return this.loop;
  }

  /** Takes away what is mounted below the volume, and the loop device; the pods are gone by then. */
  end(): void {
    if (this.loop !== "") execFileSync("losetup", ["--detach", this.loop]);
    for (const name of ["below", "slave/new", "slave"])
      try {
        execFileSync("umount", ["-l", join(this.volume, name)], { stdio: "ignore" });
      } catch {
        // It was never mounted.
      }
  }

  /** What a shell script in a container says on both streams, whatever its exit status is. */
  async sh(container: TestContainer, script: string): Promise<string> {
    const { stdout } = await this.cri.exec(container, "sh", "-c", `exec 2>&1; ${script}`);
    return Buffer.from(stdout).toString();
  }

  /** A line of /proc/1/status of a container with a PID namespace of its own, or of the command's own process. */
  async processStatus(container: TestContainer, name: string): Promise<string> {
    const text = await this.cri.output(container, "cat", "/proc/self/status");
    return new RegExp(`^${name}:\\s+(.*)$`, "m").exec(text)?.[1]?.trim() ?? "";
  }

  /** A setting of the container's cgroup: of the first of these files that is there, version 1 and 2. */
  async cgroup(...files: readonly string[]): Promise<string> {
    const tries = files.map((file) => `cat /sys/fs/cgroup/${file} 2>/dev/null`).join(" || ");
    return (await this.sh(this.c.plain, tries)).trim();
  }

  async podStatus(): Promise<{ readonly status: PodSandboxStatus; readonly info: unknown }> {
    const answer = await this.cri.runtime.callUnary("podSandboxStatus", {
      podSandboxId: this.podId,
      verbose: true,
    });
    assert.ok(answer.status);
    return { status: answer.status, info: JSON.parse(answer.info["info"] ?? "") };
  }

  async containerStatus(container: TestContainer): Promise<ContainerStatus> {
    const { status } = await this.cri.runtime.callUnary("containerStatus", { containerId: container.id });
    assert.ok(status);
    return status;
  }

  /** The container's log once it has `text`; a log is written after its container, by another process. */
  async log(path: string, text: string): Promise<string> {
    const deadline = performance.now() + 30_000;
    for (;;) {
      const log = readFileSync(path, "utf8");
      if (log.includes(text)) return log;
      if (performance.now() > deadline) assert.fail(`${path} has no ${text}:\n${log}`);
      await this.cri.runtime.callUnary("listContainers", {});
    }
  }

  /** Attaches, writes a line, and closes the input. */
  async sendInput(container: TestContainer, line: string): Promise<void> {
    const { url } = await this.cri.runtime.callUnary("attach", {
      containerId: container.id,
      stdin: true,
      stdout: true,
    });
    const stdin = new PassThrough();
    const stdout = new PassThrough();
    const signal = AbortSignal.timeout(60_000);
    const stream = await openStream(url, { stdin, stdout, stderr: stdout, terminal: undefined, signal });
    stdin.end(`${line}\n`);
    await this.log(container.logPath, `got ${line}`);
    stream.close();
    await stream.ended;
  }

  /** That this pod is refused with a message of `pattern`, on this handler unless told otherwise. */
  async refusesPod(more: PodInit, pattern: RegExp): Promise<void> {
    await assert.rejects(this.cri.runPod(this.handler, this.cri.podConfig(more)), refusal(pattern));
  }

  /** That this container of the pod is refused with a message of `pattern`. */
  async refusesContainer(more: ContainerInit, pattern: RegExp): Promise<void> {
    await assert.rejects(this.cri.create(this.podId, this.config, this.stage.image, more), refusal(pattern));
  }

  /** What a listener at the mapped port answers to the host at `address`, or the code of the error. */
  async connectTo(address: string): Promise<string> {
    return new Promise((resolve) => {
      const socket = createConnection(ports.tcp, address);
      let text = "";
      socket.setEncoding("utf8").on("data", (data: string) => {
        text += data;
      });
      // A mapping that should not be there may lose the packets.
      socket.setTimeout(10_000, () => socket.destroy(new Error("timeout")));
      socket.on("error", ({ code = "no answer" }: NodeJS.ErrnoException) => resolve(code));
      socket.on("close", () => resolve(text));
    });
  }
}

/** A refusal is never a failure of ours. */
function refusal(pattern: RegExp): (thrown: unknown) => boolean {
  return (thrown) => {
    assert.ok(thrown instanceof Error && "code" in thrown, String(thrown));
    assert.ok(
      thrown.code === "INVALID" || thrown.code === "UNSUPPORTED",
      `${thrown.code}: ${thrown.message}`,
    );
    assert.match(thrown.message, pattern);
    return true;
  };
}

export function mountTmpfs(path: string): void {
  execFileSync("mount", ["-t", "tmpfs", "tmpfs", path]);
  closeSync(openSync(join(path, "mark"), "w"));
}

/** The host's rules of address translation, as `iptables` was told them. */
export function natRules(): readonly string[] {
  return execFileSync("iptables", ["-t", "nat", "-S"], { encoding: "utf8" }).split("\n");
}

/** A cgroup's directories in all hierarchies, version 1 and 2, in which it is. */
export function cgroupDirectories(cgroup: string): readonly string[] {
  const root = "/sys/fs/cgroup";
  return ["", ...readdirSync(root)]
    .map((controller) => join(root, controller, cgroup))
    .filter((path) => existsSync(join(path, "cgroup.procs")));
}
