/** What critest is run against: a tinderboxd, or containerd as the control, with a registry of critest's images. */
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startContainerd } from "../../bench/containerd.ts";
import { type TestCni, writeBridgeConf } from "../support/cni.ts";
import { crictl } from "../support/crictl.ts";
import { startDaemon } from "../support/daemon.ts";
import { startRegistry, type TestRegistry } from "../support/test-registry.ts";
import { pushConformanceImages } from "./images.ts";
import type { Run } from "./runs.ts";

/** Hosts whose images critest asks for: all come from the local registry. */
const mirrored = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io", "public.ecr.aws"];

type Runtime = { readonly socket: string; stop(log: string): Promise<void> };

export class Runtimes {
  readonly #work: string;
  readonly #registry: TestRegistry;
  readonly #cni: TestCni;
  readonly #running = new Map<"tinderbox" | "containerd", Runtime>();

  private constructor(work: string, registry: TestRegistry, cni: TestCni) {
    this.#work = work;
    this.#registry = registry;
    this.#cni = cni;
  }

  static async prepare(work: string): Promise<Runtimes> {
    chmodSync(work, 0o711);
    const registry = await startRegistry({ dir: join(work, "registry") });
    const cni = writeBridgeConf(join(work, "cni"), [
      { type: "portmap", capabilities: { portMappings: true }, snat: true },
    ]);
    await pushConformanceImages(registry.url);
    return new Runtimes(work, registry, cni);
  }

  /** The socket of what runs this handler, started with the first. */
  async socketFor(handler: Run["handler"]): Promise<string> {
    const kind = handler === "containerd" ? "containerd" : "tinderbox";
    const running = this.#running.get(kind) ?? (await this.#start(kind));
    this.#running.set(kind, running);
    return running.socket;
  }

  async #start(kind: "tinderbox" | "containerd"): Promise<Runtime> {
    if (kind === "containerd") {
      const hosts = join(this.#work, "registry-hosts");
      for (const host of mirrored) {
        mkdirSync(join(hosts, host), { recursive: true });
        const mirror = `[host."${this.#registry.url}"]\ncapabilities = ["pull", "resolve"]\n`;
        writeFileSync(join(hosts, host, "hosts.toml"), mirror);
      }
      const pause = "registry.k8s.io/pause:3.9";
      return startContainerd(join(this.#work, "containerd"), this.#cni.confDir, pause, hosts);
    }
    const daemon = await startDaemon({
      root: join(this.#work, "root"),
      state: join(this.#work, "run"),
      configToml: [
        this.#cni.toml,
        ...mirrored.map((host) => `[registries."${host}"]\nmirrors = ["${this.#registry.url}"]`),
      ].join("\n"),
    });
    return {
      socket: daemon.socket,
      stop: async (log) => {
        await daemon.stop();
        writeFileSync(log, daemon.said());
      },
    };
  }

  /** A spec that fails may leave its pod; what must be gone is what the runtime was asked to remove. */
  removePods(): void {
    for (const { socket } of this.#running.values()) crictl(socket, "rmp", "--all", "--force");
  }

  async stop(log: string): Promise<void> {
    for (const runtime of this.#running.values()) await runtime.stop(log);
    await this.#registry.stop();
    this.#cni.remove();
  }
}
