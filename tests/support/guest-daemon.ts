/** A daemon on a host as Debian makes it, and crictl there. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crictlPath } from "./crictl.ts";
import { GuestHost, type Said } from "./guest-host.ts";

const socket = "/run/tb/tinderbox.sock";

export class GuestDaemon {
  /** Below it, what is written here is read there at the same path. */
  readonly work: string;
  /** A reference of busybox, which the daemon has */
  readonly image: string;
  readonly #host: GuestHost;
  #files = 0;

  private constructor(host: GuestHost, image: string) {
    this.work = host.work;
    this.image = image;
    this.#host = host;
  }

  static async start(work: string): Promise<GuestDaemon> {
    const config = join(work, "inner.toml");
    writeFileSync(config, `root = "/run/tb-root"\nstate = "/run/tb"\nlisten = "${socket}"\n`);
    const host = await GuestHost.start(work, {
      command: `exec tinderboxd --config ${config}`,
      modules: ["loop"],
      memory: 2048,
      parts: ["tests/clients/bin/crictl"],
      // All of it is emulated there, Node too: the daemon takes a minute to start.
      patience: 240,
    });
    try {
      const image = host.imageArchive();
      await host.must(`until [ -S ${socket} ]; do sleep 0.1; done`);
      await host.must(`tinderbox --socket ${socket} pull oci-archive:${image.path}`);
      return new GuestDaemon(host, image.reference);
    } catch (cause) {
      await host.stop();
      throw cause;
    }
  }

  /** Runs a shell's script there. */
  sh(script: string): Promise<Said> {
    return this.#host.sh(script);
  }

  /** Standard output of a script that has to succeed. */
  must(script: string): Promise<string> {
    return this.#host.must(script);
  }

  /** A command line of crictl for the daemon; `$id` and the like are the shell's. */
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

  stop(): Promise<void> {
    return this.#host.stop();
  }
}
