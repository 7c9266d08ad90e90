/**
 * The daemon of one command, for when none listens: `tinderbox run` works on a fresh machine. Its images are kept between
 * commands; its sockets, its network and its pods end with it.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { binDirectory } from "../base/paths.ts";

const systemCni = "/etc/cni/net.d";

/** A network that leaves no bridge behind; who has which address is shared by all commands. */
function networkConfig(kept: string): string {
  return JSON.stringify({
    cniVersion: "1.0.0",
    name: "tinderbox-run",
    plugins: [
      {
        type: "ptp",
        ipMasq: true,
        ipam: {
          type: "host-local",
          ranges: [[{ subnet: "10.181.0.0/16" }]],
          routes: [{ dst: "0.0.0.0/0" }],
          dataDir: join(kept, "addresses"),
        },
      },
    ],
  });
}

/** Whether something accepts connections on `socket`. */
export async function isListening(socket: string): Promise<boolean> {
  const connection = connect(socket);
  try {
    await once(connection, "connect");
    return true;
  } catch {
    return false;
  } finally {
    connection.destroy();
  }
}

function hasSystemNetwork(): boolean {
  try {
    return readdirSync(systemCni).some((name) => /\.(conf|conflist|json)$/.test(name));
  } catch {
    return false;
  }
}

/** Resolves when the daemon listens; what it said when it ends instead. */
async function listening(child: ChildProcess): Promise<string | undefined> {
  let said = "";
  return await new Promise((resolve) => {
    child.stderr?.on("data", (chunk: Buffer) => {
      said = (said + chunk.toString("utf8")).slice(-8192);
      if (/ listening /.test(said)) resolve(undefined);
    });
    child.once("error", (cause) => resolve(cause.message));
    child.once("close", () => resolve(said.trim()));
  });
}

/** Runs `use` with the socket of a daemon that ends with it. `use` must leave no pod. */
export async function withPrivateDaemon<T>(use: (socket: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), "tinderbox-run-"));
  const kept = join(process.env["XDG_DATA_HOME"] ?? join(homedir(), ".local/share"), "tinderbox");
  const state = join(directory, "s");
  const socket = join(state, "tinderbox.sock");
  const conf = join(directory, "cni");
  mkdirSync(conf);
  if (!hasSystemNetwork()) writeFileSync(join(conf, "10-run.conflist"), networkConfig(kept));
  const config = join(directory, "config.toml");
  const cniDirectory = hasSystemNetwork() ? systemCni : conf;
  writeFileSync(
    config,
    `[cni]\nconf_dir = ${JSON.stringify(cniDirectory)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
  );
  const start = async (root: string): Promise<{ child: ChildProcess; failure: string | undefined }> => {
    const args = ["--config", config, "--root", root, "--state", state, "--listen", socket];
    // A group of its own: Ctrl-C is ours to handle, and the daemon's to survive until the pod is gone.
    const child = spawn(join(binDirectory, "tinderboxd"), [...args, "--exit-with-parent"], {
      stdio: ["pipe", "ignore", "pipe"],
      detached: true,
    });
    child.stdin?.on("error", () => {});
    return { child, failure: await listening(child) };
  };
  let child: ChildProcess | undefined;
  try {
    let started = await start(kept);
    // Another command's daemon has the kept images: this one pulls its own.
    if (started.failure?.includes("is in use by another") === true)
      started = await start(join(directory, "root"));
    if (started.failure !== undefined)
      throw new TinderboxError("UNAVAILABLE", `a daemon for this command did not start: ${started.failure}`);
    child = started.child;
    return await use(socket);
  } finally {
    if (child !== undefined && child.exitCode === null) {
      const ended = once(child, "close");
      child.stdin?.end();
      await ended;
    }
    rmSync(directory, { recursive: true, force: true });
  }
}
