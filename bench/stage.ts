/** What is measured: tinderboxd and containerd side by side, with one registry and one CNI configuration. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { pushBusyboxImage, pushImage } from "../tests/support/busybox-image.ts";
import { writeBridgeConf } from "../tests/support/cni.ts";
import { TestCri } from "../tests/support/cri-client.ts";
import { startDaemon, type TestDaemon } from "../tests/support/daemon.ts";
import { startRegistry } from "../tests/support/test-registry.ts";
import { startContainerd } from "./containerd.ts";
import type { Contender } from "./cri-pod.ts";

export type Stage = {
  readonly crun: Contender;
  readonly microvm: Contender;
  /** The peer: containerd with runc */
  readonly runc: Contender;
  /** Both have it: a shell and no more */
  readonly small: string;
  /** Neither has it: programs and data of some 26 MiB on that shell */
  readonly large: string;
  readonly sockets: { readonly tinderbox: string; readonly containerd: string };
  /** Another tinderboxd, on the same network and images' registry, with more in its environment */
  startAnother(name: string, env: NodeJS.ProcessEnv): Promise<TestDaemon>;
};

function tar(...args: readonly string[]): Buffer {
  const made = spawnSync("tar", ["-C", "/", ...args], { maxBuffer: 1 << 30 });
  if (made.status !== 0) throw new Error(`tar: ${made.stderr.toString()}`);
  return made.stdout;
}

/** Starts everything below `work`; `stack` ends it. */
export async function setStage(work: string, stack: AsyncDisposableStack): Promise<Stage> {
  const registry = await startRegistry({ dir: join(work, "registry") });
  stack.defer(() => registry.stop());
  const named = (name: string): string => `${registry.host}/bench/${name}:latest`;
  await pushBusyboxImage(registry.url, "bench/busybox", "latest");
  await pushImage(registry.url, "bench/pause", "latest", [tar("-cf", "-", "bin/busybox")], {
    Entrypoint: ["/bin/busybox", "tail", "-f", "/dev/null"],
  });
  const shell = tar("--transform", "s#^bin/busybox$#bin/sh#", "-cf", "-", "bin/busybox");
  // Real files: programs and firmware that QEMU's package brings on every such host.
  const files = tar("-cf", "-", "usr/share/qemu", "usr/share/perl");
  await pushImage(registry.url, "bench/large", "latest", [shell, files], { Env: ["PATH=/bin"] });
  const cni = writeBridgeConf(join(work, "cni"));
  stack.defer(() => cni.remove());
  const startAnother = async (name: string, env: NodeJS.ProcessEnv): Promise<TestDaemon> => {
    const daemon = await startDaemon({
      root: join(work, name, "root"),
      state: join(work, name, "run"),
      configToml: `[cni]\nconf_dir = ${JSON.stringify(cni.confDir)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
      logLevel: "info",
      env,
    });
    stack.defer(() => daemon.stop());
    return daemon;
  };
  // One start that does not count: Node's compiled code is on disk after it, as on a host where a daemon has ever run.
  await (await startDaemon({ root: join(work, "first/root"), state: join(work, "first/run") })).stop();
  const daemon = await startAnother("tinderbox", {});
  const peer = await startContainerd(join(work, "containerd"), cni.confDir, named("pause"));
  stack.defer(() => peer.stop());
  const ours = stack.use(new TestCri(daemon.socket, join(work, "tinderbox")));
  const theirs = stack.use(new TestCri(peer.socket, join(work, "peer")));
  for (const cri of [ours, theirs]) await cri.pull(named("busybox"));
  const pid = daemon.child.pid ?? 0;
  return {
    crun: { label: "crun", cri: ours, handler: "crun", pid },
    microvm: { label: "firecracker", cri: ours, handler: "firecracker", pid },
    runc: { label: "containerd", cri: theirs, handler: "runc", pid: peer.pid },
    small: named("busybox"),
    large: named("large"),
    sockets: { tinderbox: daemon.socket, containerd: peer.socket },
    startAnother,
  };
}
