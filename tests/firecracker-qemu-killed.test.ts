// firecracker-qemu killed with SIGKILL at any point of its start: no process, no file of its stays.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";

const root = join(import.meta.dirname, "..");
const kills = 20;
/** ms; a start takes about this long on a quiet machine */
const startMs = 1_000;
const patienceMs = 10_000;

/** Processes whose arguments name `directory`. */
function processesOf(directory: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(directory);
    } catch {
      return false;
    }
  });
}

test("firecracker-qemu: killed at 20 points of its start, it leaves no process and no file", async () => {
  for (let kill = 0; kill < kills; kill++) {
    const directory = mkdtempSync("/tmp/fcq-killed-");
    try {
      const disk = join(directory, "disk.img");
      writeFileSync(disk, Buffer.alloc(4096));
      const config = join(directory, "config.json");
      writeFileSync(
        config,
        JSON.stringify({
          "boot-source": {
            kernel_image_path: join(root, ".cache/guest/vmlinux"),
            initrd_path: join(root, ".cache/guest/initramfs.img"),
            boot_args: "reboot=k panic=-1 quiet",
          },
          drives: [{ drive_id: "d", is_root_device: false, path_on_host: disk }],
          vsock: { guest_cid: 3, uds_path: join(directory, "v.sock") },
        }),
      );
      const child = spawn(
        join(root, "bin/firecracker-qemu"),
        ["--api-sock", join(directory, "api.sock"), "--config-file", config, "--level", "Off"],
        { stdio: "ignore", env: { ...process.env, TMPDIR: directory } },
      );
      const ended = once(child, "exit");
      await delay(Math.random() * startMs);
      child.kill("SIGKILL");
      await ended;
      // What it started notices within some milliseconds.
      const deadline = performance.now() + patienceMs;
      while (processesOf(directory).length > 0 && performance.now() < deadline) await delay(10);
      assert.deepEqual(processesOf(directory), []);
      assert.deepEqual(readdirSync(directory).sort(), ["config.json", "disk.img"]);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  }
});
