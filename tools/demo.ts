/** `make demo`: the talk's two demos and one line of our own, as a person would want to watch them. Fails when anything is left behind. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, watch, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { styleText } from "node:util";
import { pushBusyboxImage } from "../tests/support/busybox-image.ts";
import { writeBridgeConf } from "../tests/support/cni.ts";
import { crictlPath } from "../tests/support/crictl.ts";
import { startDaemon } from "../tests/support/daemon.ts";
import { diffSnapshots, formatDiff, snapshotHost } from "../tests/support/leak-report.ts";
import { startRegistry } from "../tests/support/test-registry.ts";

const root = join(import.meta.dirname, "..");
const bin = join(root, "bin");
const colour = process.stdout.isTTY === true && !process.env["NO_COLOR"];
const style = (format: Parameters<typeof styleText>[0], text: string): string =>
  colour ? styleText(format, text) : text;

class DemoFailure extends Error {}

function heading(text: string): void {
  console.log(`\n${style(["bold", "yellow"], `== ${text}`)}`);
}

function say(text: string): void {
  console.log(style("dim", text));
}

/** Shows a command as one would type it, runs it, shows its output, and fails the demo when its exit status is not `expected`. */
function show(shown: string, file: string, args: readonly string[], expected = 0): string {
  console.log(`${style("green", "$")} ${style("bold", shown)}`);
  const result = spawnSync(file, args, {
    encoding: "utf8",
    env: { ...process.env, PATH: `${bin}:${process.env["PATH"]}` },
  });
  const output = `${result.stdout}${result.stderr}`;
  if (output) process.stdout.write(output.replace(/^/gm, "  ").replace(/ {2}$/, ""));
  if (result.status !== expected)
    throw new DemoFailure(`${shown}: exit status ${result.status}, not ${expected}`);
  return result.stdout.trim();
}

/** The talk's first demo: a VMM on a socket, driven by curl up to the guest's `uname -a`. */
async function plainMicrovm(work: string): Promise<void> {
  heading("1. A plain microVM, driven by curl");
  const guest = join(work, "guest");
  show("tinderbox guest build --rootfs busybox --output guest", join(bin, "tinderbox"), [
    "guest",
    "build",
    "--rootfs",
    "busybox",
    "--output",
    guest,
  ]);
  const socket = join(work, "firecracker.sock");
  console.log(
    `${style("green", "$")} ${style("bold", "firecracker-qemu --api-sock firecracker.sock --id demo --level Warning &")}`,
  );
  // The launcher's directory is watched before the start, so the socket's appearance cannot be missed.
  const watcher = watch(work);
  const vmm = spawn(
    join(bin, "firecracker-qemu"),
    ["--api-sock", socket, "--id", "demo", "--level", "Warning"],
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  const ended = once(vmm, "close");
  let console_ = "";
  createInterface({ input: vmm.stdout }).on("line", (line) => {
    console_ += `${line}\n`;
    const text = line.replace(/[^\P{Cc}\t]/gu, "");
    if (text.trim() !== "") console.log(`${style("dim", "  |")} ${text}`);
  });
  try {
    while (!existsSync(socket)) await once(watcher, "change", { signal: AbortSignal.timeout(10_000) });
    const put = (path: string, body: object): void => {
      const json = JSON.stringify(body);
      const shown = json.replaceAll(`${work}/`, "");
      show(`curl --unix-socket firecracker.sock -X PUT http://localhost${path} -d '${shown}'`, "curl", [
        ...[
          "-sS",
          "--fail-with-body",
          "--unix-socket",
          socket,
          "-X",
          "PUT",
          `http://localhost${path}`,
          "-d",
          json,
        ],
      ]);
    };
    put("/boot-source", {
      kernel_image_path: join(guest, "vmlinux"),
      initrd_path: join(guest, "initramfs-plain.img"),
      boot_args: "console=ttyS0 reboot=k panic=1 quiet",
    });
    put("/drives/rootfs", {
      drive_id: "rootfs",
      path_on_host: join(guest, "rootfs.ext4"),
      is_root_device: true,
      is_read_only: false,
    });
    put("/machine-config", { vcpu_count: 1, mem_size_mib: 128 });
    put("/actions", { action_type: "InstanceStart" });
    await Promise.race([
      ended,
      once(AbortSignal.timeout(60_000), "abort").then(() => {
        throw new DemoFailure("the guest did not end within 60 s");
      }),
    ]);
  } finally {
    watcher.close();
    vmm.kill("SIGKILL");
  }
  if (!/Linux .* x86_64|Linux .* aarch64/.test(console_))
    throw new DemoFailure("the guest's console never showed `uname -a`");
  say(`the guest ended by itself, and the VMM with it (exit status ${vmm.exitCode})`);
}

/** The talk's second demo: crictl against tinderboxd, by two handlers. */
async function podsByCrictl(work: string, image: string, socket: string): Promise<void> {
  heading("2. Pods by crictl: the same image in a microVM and on the host");
  const config = join(work, "crictl.yaml");
  writeFileSync(
    config,
    `runtime-endpoint: unix://${socket}\nimage-endpoint: unix://${socket}\ntimeout: 60\n`,
  );
  const crictl = (shown: string, ...args: string[]): string =>
    show(`crictl ${shown}`, crictlPath, ["--config", config, ...args]);
  crictl(`pull ${image}`, "pull", image);
  crictl("images", "images");
  const kernels = new Map<string, string>();
  for (const handler of ["firecracker", "crun"]) {
    console.log(style("cyan", `-- runtime handler ${handler}`));
    const pod = join(work, `pod-${handler}.json`);
    const container = join(work, "container.json");
    writeFileSync(
      pod,
      JSON.stringify({
        metadata: { name: `demo-${handler}`, namespace: "default", uid: `demo-${handler}`, attempt: 1 },
        log_directory: join(work, "logs", handler),
        linux: { cgroup_parent: "/tinderbox" },
      }),
    );
    writeFileSync(
      container,
      JSON.stringify({
        metadata: { name: "hello", attempt: 1 },
        image: { image },
        command: [
          "sh",
          "-c",
          "trap 'echo bye; exit 0' TERM; echo hello from $(uname -n), kernel $(uname -r); while :; do sleep 1000 & wait; done",
        ],
        log_path: "hello.log",
        // As kubelet sets them: where `crictl ps` gets its last two columns from.
        labels: {
          "io.kubernetes.pod.name": `demo-${handler}`,
          "io.kubernetes.pod.namespace": "default",
        },
        linux: {},
      }),
    );
    const podId = crictl(`runp --runtime ${handler} pod.json`, "runp", "--runtime", handler, pod);
    const containerId = crictl("create POD container.json pod.json", "create", podId, container, pod);
    crictl("start CONTAINER", "start", containerId);
    crictl("ps", "ps");
    kernels.set(handler, crictl("exec CONTAINER uname -r", "exec", containerId, "uname", "-r"));
    crictl("logs CONTAINER", "logs", containerId);
    crictl("stop --timeout 10 CONTAINER", "stop", "--timeout", "10", containerId);
    crictl("logs CONTAINER", "logs", containerId);
    crictl("rm CONTAINER", "rm", containerId);
    crictl("stopp POD", "stopp", podId);
    crictl("rmp POD", "rmp", podId);
  }
  if (kernels.get("firecracker") === kernels.get("crun"))
    throw new DemoFailure("both handlers ran on the same kernel");
  say(`kernels: firecracker ${kernels.get("firecracker")}, crun ${kernels.get("crun")}`);
}

async function main(): Promise<void> {
  const work = mkdtempSync("/tmp/tinderbox-demo-");
  mkdirSync(join(work, "cni"));
  const before = snapshotHost([work]);
  const registry = await startRegistry({ dir: join(work, "registry") });
  try {
    const image = `${registry.host}/demo/busybox:latest`;
    await plainMicrovm(work);
    await pushBusyboxImage(registry.url, "demo/busybox", "latest");
    const cni = writeBridgeConf(join(work, "cni"));
    const daemon = await startDaemon({
      root: join(work, "root"),
      state: join(work, "state"),
      configToml: `[cni]\nconf_dir = ${JSON.stringify(cni.confDir)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
    });
    try {
      await podsByCrictl(work, image, daemon.socket);
      heading("3. One line");
      for (const handler of ["firecracker", "crun"]) {
        show(`tinderbox run --runtime ${handler} --timing ${image} -- uname -a`, join(bin, "tinderbox"), [
          ...["--socket", daemon.socket, "run", "--runtime", handler, "--timing", image, "--", "uname", "-a"],
        ]);
      }
      show(
        `tinderbox run ${image} -- sh -c 'exit 7'`,
        join(bin, "tinderbox"),
        ["--socket", daemon.socket, "run", image, "--", "sh", "-c", "exit 7"],
        7,
      );
      say("the container's exit status, 7, was passed on");
    } finally {
      await daemon.stop();
      cni.remove();
    }
  } finally {
    await registry.stop();
    rmSync(work, { recursive: true, force: true });
  }
  heading("What is left");
  const diff = diffSnapshots(before, snapshotHost([work]));
  console.log(formatDiff(before, diff));
  if (diff.some((kind) => kind.added.length > 0)) throw new DemoFailure("something was left behind");
  console.log(style(["bold", "green"], "\nThe demo is over, and nothing is left of it."));
}

try {
  await main();
} catch (error) {
  console.error(
    style(
      "red",
      `\ndemo: ${error instanceof DemoFailure ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    ),
  );
  process.exitCode = 1;
}
