/** A real kubelet, standalone: it runs the pods of a directory of manifests by our daemon. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  createWriteStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { request } from "node:https";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

const program = join(import.meta.dirname, "../clients-kubelet/bin/kubelet");

export type KubeletOptions = {
  /** Everything of it is below this */
  readonly directory: string;
  readonly criSocket: string;
  readonly port: number;
};

/** Polls: a kubelet announces nothing. @throws what `look` threw last, once `seconds` are over */
export async function eventually<T>(what: string, seconds: number, look: () => T | Promise<T>): Promise<T> {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    try {
      return await look();
    } catch (cause) {
      if (Date.now() > end) throw new Error(`not in ${seconds} s: ${what}`, { cause });
      await delay(200);
    }
  }
}

export class TestKubelet {
  readonly #options: KubeletOptions;
  #child: ChildProcess | undefined;

  constructor(options: KubeletOptions) {
    this.#options = options;
    for (const name of ["pods", "root", "certs", "logs"])
      mkdirSync(join(options.directory, name), { recursive: true });
    writeFileSync(
      join(options.directory, "config.json"),
      JSON.stringify({
        apiVersion: "kubelet.config.k8s.io/v1beta1",
        kind: "KubeletConfiguration",
        authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
        authorization: { mode: "AlwaysAllow" },
        address: "127.0.0.1",
        port: options.port,
        healthzPort: 0,
        readOnlyPort: 0,
        cgroupDriver: "cgroupfs",
        cgroupRoot: "/",
        failCgroupV1: false,
        failSwapOn: false,
        containerRuntimeEndpoint: `unix://${options.criSocket}`,
        staticPodPath: join(options.directory, "pods"),
        podLogsDir: join(options.directory, "logs"),
        volumePluginDir: join(options.directory, "plugins"),
        syncFrequency: "1s",
        fileCheckFrequency: "1s",
        makeIPTablesUtilChains: false,
        enforceNodeAllocatable: [],
        evictionHard: { "memory.available": "1Mi", "imagefs.available": "80%" },
        evictionPressureTransitionPeriod: "1s",
        imageMinimumGCAge: "1s",
        clusterDNS: ["10.0.0.10"],
        clusterDomain: "cluster.local",
        crashLoopBackOff: { maxContainerRestartPeriod: "2s" },
        featureGates: { KubeletCrashLoopBackOffMax: true },
      }),
    );
  }

  get logPath(): string {
    return join(this.#options.directory, "kubelet.log");
  }

  /** Its log so far. */
  get said(): string {
    return existsSync(this.logPath) ? readFileSync(this.logPath, "utf8") : "";
  }

  async start(): Promise<void> {
    const { directory, port } = this.#options;
    const child = spawn(
      program,
      [
        ["--config", join(directory, "config.json")],
        ["--root-dir", join(directory, "root")],
        ["--cert-dir", join(directory, "certs")],
        ["--hostname-override", "node"],
        ["--v=2"],
      ].flat(),
      { stdio: ["ignore", "pipe", "pipe"] },
    );
    const log = createWriteStream(this.logPath, { flags: "a" });
    for (const stream of [child.stdout, child.stderr]) stream.pipe(log, { end: false });
    this.#child = child;
    await eventually(`the kubelet serves on port ${port}`, 30, () => this.get("/healthz"));
  }

  async stop(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null) return;
    child.kill("SIGTERM");
    await once(child, "exit");
  }

  /** What it makes and never removes: its pods' cgroups, and a bind mount of its own directory. */
  removeLeftovers(): void {
    spawnSync("umount", [join(this.#options.directory, "root")]);
    const remove = (path: string): void => {
      for (const entry of readdirSync(path, { withFileTypes: true }))
        if (entry.isDirectory()) remove(join(path, entry.name));
      rmdirSync(path);
    };
    for (const controller of readdirSync("/sys/fs/cgroup")) {
      const path = join("/sys/fs/cgroup", controller, "kubepods");
      if (existsSync(path)) remove(path);
    }
  }

  writePod(name: string, manifest: object): void {
    writeFileSync(join(this.#options.directory, "pods", `${name}.json`), JSON.stringify(manifest));
  }

  podPath(name: string): string {
    return join(this.#options.directory, "pods", `${name}.json`);
  }

  /** A request to its API. @throws for any status but 200 */
  async get(path: string, method = "GET"): Promise<string> {
    const outgoing = request({
      host: "127.0.0.1",
      port: this.#options.port,
      path,
      method,
      agent: false,
      rejectUnauthorized: false,
      timeout: 20_000,
    });
    outgoing.once("timeout", () => outgoing.destroy(new Error(`${method} ${path}: no answer in 20 s`)));
    outgoing.end();
    const [answer] = await once(outgoing, "response");
    let text = "";
    for await (const chunk of answer.setEncoding("utf8")) text += chunk;
    if (answer.statusCode !== 200) throw new Error(`${method} ${path}: HTTP ${answer.statusCode}: ${text}`);
    return text;
  }

  /** A pod as the kubelet tells it. */
  async pod(name: string): Promise<KubeletPod> {
    const { items }: { items: KubeletPod[] } = JSON.parse(await this.get("/pods"));
    const found = items.find(({ metadata }) => metadata.name === `${name}-node`);
    if (found === undefined) throw new Error(`the kubelet has no pod ${name}`);
    return found;
  }
}

export type KubeletContainerStatus = {
  readonly name: string;
  readonly ready: boolean;
  readonly restartCount: number;
  readonly containerID?: string;
  readonly imageID: string;
  readonly state: {
    readonly running?: object;
    readonly waiting?: { readonly reason: string; readonly message?: string };
    readonly terminated?: { readonly exitCode: number };
  };
};

export type KubeletPod = {
  readonly metadata: { readonly name: string };
  readonly status: {
    readonly phase: string;
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly KubeletContainerStatus[];
    readonly initContainerStatuses?: readonly KubeletContainerStatus[];
  };
};
