/**
 * A host as Debian makes it, cgroup version 2 alone and AppArmor on, for tests on hosts that have neither: a microVM, whose kernel
 * is Debian's. A privileged container there takes this host's files for its root, by the volume server, and runs a daemon of its own.
 */
import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContainer } from "./cri-client.ts";
import { type CriStage, startCriStage, stopCriStage } from "./cri-stage.ts";
import { crictlPath } from "./crictl.ts";

const project = join(import.meta.dirname, "../..");
const socket = "/run/tb/tinderbox.sock";
const memory = 2n << 30n;
/** All of it is emulated there, Node too: the daemon takes a minute to start. */
const patienceS = 240n;

type Said = { readonly code: number; readonly out: string; readonly err: string };

/** The kernel's module for loop devices: images of the inner daemon are mounted by them, which no other guest needs. */
function unpackLoopModule(directory: string): string {
  const packages = join(project, ".cache/packages");
  const kernel = readdirSync(packages).find((name) => /^linux-image-.*\.deb$/.test(name));
  if (kernel === undefined) throw new Error(`no package of the guest's kernel in ${packages}: make build`);
  execFileSync("dpkg-deb", ["--extract", join(packages, kernel), directory]);
  const [release = ""] = readdirSync(join(directory, "lib/modules"));
  return join(directory, "lib/modules", release, "kernel/drivers/block/loop.ko");
}

/**
 * What of this project a daemon runs from, in one file: in the guest each look at a file of the host's is a question to the host,
 * and a daemon's start looks at thousands.
 */
function packProject(file: string): void {
  const tools = [
    "@biomejs",
    "@typescript",
    "@oxlint",
    "@oxlint-tsgolint",
    "@arethetypeswrong",
    "@bufbuild/buf-*",
  ];
  const excludes = tools.map((name) => `--exclude=node_modules/${name}`);
  const parts = ["bin", "packages", "node_modules", "tests/clients/bin/crictl", "package.json"];
  const tar = `${file}.tar`;
  execFileSync("tar", ["--create", `--file=${tar}`, "--directory", project, ...excludes, ...parts]);
  const input = openSync(tar, "r");
  const flags = ["-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX"];
  execFileSync("sqfstar", [...flags, file], { stdio: [input, "ignore", "inherit"] });
  closeSync(input);
  rmSync(tar);
}

export class GuestHost {
  /** Below it, what is written here is read there at the same path. */
  readonly work: string;
  /** A reference of busybox, which the inner daemon has */
  readonly image: string;
  readonly #stage: CriStage;
  readonly #container: TestContainer;
  #files = 0;

  private constructor(work: string, stage: CriStage, container: TestContainer) {
    this.work = work;
    this.image = stage.image;
    this.#stage = stage;
    this.#container = container;
  }

  static async start(work: string): Promise<GuestHost> {
    const own = join(work, "project.sqfs");
    packProject(own);
    const loop = unpackLoopModule(join(work, "kernel"));
    const config = join(work, "inner.toml");
    writeFileSync(config, `root = "/run/tb-root"\nstate = "/run/tb"\nlisten = "${socket}"\n`);
    const stage = await startCriStage(work);
    try {
      return await GuestHost.#startOn(work, stage, { own, loop, config });
    } catch (cause) {
      await stopCriStage(work, stage);
      throw cause;
    }
  }

  static async #startOn(
    work: string,
    stage: CriStage,
    { own, loop, config }: { readonly own: string; readonly loop: string; readonly config: string },
  ): Promise<GuestHost> {
    const image = join(work, "busybox.tar");
    const copied = [`docker://${stage.image}`, `oci-archive:${image}:${stage.image}`];
    execFileSync("skopeo", ["copy", "--quiet", "--src-tls-verify=false", ...copied]);
    const pod = stage.cri.podConfig(
      {},
      { securityContext: { privileged: true }, resources: { memoryLimitInBytes: memory } },
    );
    const podId = await stage.cri.runPod("firecracker", pod);
    const setUp = `
      for dir in proc sys; do mount --rbind /$dir /host/$dir; done
      mount -t devtmpfs devtmpfs /host/dev
      mount -t devpts devpts /host/dev/pts
      mount -t tmpfs tmpfs /host/run
      mount -t securityfs securityfs /host/sys/kernel/security
      insmod /host${loop}
      mount -o ro,loop /host${own} /host${project}
      mkdir /host/run/old
      cd /host
      pivot_root . run/old
      exec ${join(project, "bin/tinderboxd")} --config ${config}`;
    const container = await stage.cri.start(podId, pod, stage.image, {
      command: ["sh", "-exc", setUp],
      envs: [{ key: "PATH", value: "/usr/sbin:/usr/bin:/sbin:/bin" }],
      mounts: [{ hostPath: "/", containerPath: "/host", readonly: true }],
      linux: { securityContext: { privileged: true } },
    });
    const host = new GuestHost(work, stage, container);
    await host.must(`until [ -S ${socket} ]; do sleep 0.1; done`);
    await host.must(`${join(project, "bin/tinderbox")} --socket ${socket} pull oci-archive:${image}`);
    return host;
  }

  /** What the inner daemon has logged. */
  log(): string {
    return readFileSync(this.#container.logPath, "utf8");
  }

  /** Runs a shell's script there. */
  async sh(script: string): Promise<Said> {
    const { exitCode, stdout, stderr } = await this.#stage.cri.runtime.callUnary("execSync", {
      containerId: this.#container.id,
      cmd: ["/bin/sh", "-c", script],
      timeout: patienceS,
    });
    const [out = "", err = ""] = [stdout, stderr].map((bytes) => Buffer.from(bytes).toString().trim());
    return { code: exitCode, out, err };
  }

  /** Standard output of a script that has to succeed. */
  async must(script: string): Promise<string> {
    const { code, out, err } = await this.sh(script);
    if (code !== 0) throw new Error(`${script}: exit status ${code}: ${err}\n${this.log()}`);
    return out;
  }

  /** A command line of crictl for the inner daemon; `$id` and the like are the shell's. */
  crictl(...args: readonly string[]): string {
    return [crictlPath, "-r", `unix://${socket}`, "-i", `unix://${socket}`, "-t", "120s", ...args].join(" ");
  }

  /** Writes a request of crictl's; its path. */
  file(request: object): string {
    const directory = join(this.work, "requests");
    mkdirSync(directory, { recursive: true });
    const path = join(directory, `${++this.#files}.json`);
    writeFileSync(path, JSON.stringify(request));
    return path;
  }

  async stop(): Promise<void> {
    await stopCriStage(this.work, this.#stage);
  }
}
