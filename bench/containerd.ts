/** The peer: containerd with its runc shim and runc, set up as a kubelet's host would have it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { peers } from "./places.ts";

export type Peer = { readonly socket: string; readonly pid: number; stop(): Promise<void> };

/** Starts containerd with everything below `directory`. `pauseImage` is the image of its sandboxes, `registryHosts` a directory of mirrors as containerd has them. */
export async function startContainerd(
  directory: string,
  cniConfDir: string,
  pauseImage: string,
  registryHosts = "",
): Promise<Peer> {
  mkdirSync(directory, { recursive: true });
  const socket = join(directory, "containerd.sock");
  const config = join(directory, "config.toml");
  const cri = "plugins.'io.containerd.cri.v1";
  writeFileSync(
    config,
    `version = 3
root = "${directory}/root"
state = "${directory}/state"
[grpc]
address = "${socket}"
[${cri}.images']
snapshotter = "overlayfs"
[${cri}.images'.pinned_images]
sandbox = "${pauseImage}"
[${cri}.images'.registry]
config_path = "${registryHosts}"
[${cri}.runtime']
restrict_oom_score_adj = true
[${cri}.runtime'.cni]
bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
conf_dir = "${cniConfDir}"
[${cri}.runtime'.containerd]
default_runtime_name = "runc"
[${cri}.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[${cri}.runtime'.containerd.runtimes.runc.options]
BinaryName = "${peers}/runc"
`,
  );
  const child = spawn(join(peers, "containerd"), ["--config", config], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, PATH: `${peers}:${process.env["PATH"]}` },
  });
  const ended = once(child, "exit");
  let said = "";
  await new Promise<void>((resolve, reject) => {
    child.stderr.on("data", (chunk: Buffer) => {
      said = (said + chunk.toString("utf8")).slice(-20_000);
      if (said.includes("containerd successfully booted")) resolve();
    });
    child.once("exit", (code) => reject(new Error(`containerd ended with status ${code}:\n${said}`)));
  });
  return {
    socket,
    pid: child.pid ?? 0,
    stop: async () => {
      child.kill("SIGTERM");
      await ended;
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
