/** The real crictl and a real registry against tinderboxd, on every handler: a pod's whole life, and what is left. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { crictl } from "./support/crictl.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

describe("crictl on every handler", () => {
  const work = mkdtempSync("/tmp/tb-");
  let snapshot: Snapshot;
  let registry: TestRegistry;
  let cni: TestCni;
  let daemon: TestDaemon;
  let image = "";

  const start = (): Promise<TestDaemon> =>
    startDaemon({
      root: join(work, "root"),
      state: join(work, "run"),
      configToml: cni.toml,
    });

  const ok = (...args: string[]): string => {
    const result = crictl(daemon.socket, ...args);
    assert.equal(result.code, 0, `crictl ${args.join(" ")}: ${result.stderr}\n${daemon.said().slice(-3000)}`);
    return result.stdout.trim();
  };

  const writeConfigs = (
    name: string,
    command: readonly string[],
    security: object = {},
  ): { pod: string; container: string } => {
    const [pod, container] = [join(work, `${name}-pod.json`), join(work, `${name}.json`)];
    const metadata = { name, namespace: "test", uid: name, attempt: 1 };
    // A PID namespace for each container: its own process is 1 in it, and its end is the end of every exec.
    const linux = { security_context: { namespace_options: { pid: 1 } } };
    writeFileSync(
      pod,
      JSON.stringify({ metadata, hostname: name, log_directory: join(work, "logs", name), linux }),
    );
    writeFileSync(
      container,
      JSON.stringify({
        metadata: { name, attempt: 1 },
        image: { image },
        command,
        log_path: "out.log",
        linux: { security_context: { ...linux.security_context, ...security } },
      }),
    );
    return { pod, container };
  };

  before(async () => {
    snapshot = snapshotHost([]);
    registry = await startRegistry({ dir: join(work, "registry") });
    image = `${registry.host}/test/busybox:latest`;
    await pushBusyboxImage(registry.url, "test/busybox", "latest");
    cni = writeBridgeConf(join(work, "cni"));
    daemon = await start();
  });

  const tearDown = async (): Promise<void> => {
    await daemon.stop();
    await registry.stop();
    cni.remove();
    rmSync(work, { recursive: true, force: true });
  };
  let isDown = false;
  after(async () => {
    if (!isDown) await tearDown();
  });

  test("an image is pulled, listed under the name asked for, and has an id", () => {
    ok("pull", image);
    const { images } = JSON.parse(ok("images", "-o", "json"));
    assert.deepEqual(images[0].repoTags, [image]);
    assert.match(images[0].id, /^sha256:[0-9a-f]{64}$/);
    const missing = crictl(daemon.socket, "pull", `${registry.host}/test/nothing:latest`);
    assert.notEqual(missing.code, 0);
    assert.match(missing.stderr, /NotFound.*test\/nothing/s);
  });

  for (const handler of ["crun", "runc", "firecracker"]) {
    test(`${handler}: create, start, exec, logs, stop, remove; exit codes and log lines are right`, () => {
      const script = "trap 'echo bye; exit 3' TERM; echo out; echo err >&2; while :; do sleep 1 & wait; done";
      const { pod, container } = writeConfigs(handler, ["sh", "-c", script]);
      const podId = ok("runp", "--runtime", handler, pod);
      const id = ok("create", podId, container, pod);
      ok("start", id);
      assert.match(ok("ps"), new RegExp(id.slice(0, 13)));
      assert.equal(ok("exec", id, "hostname"), handler);
      const failed = crictl(daemon.socket, "exec", id, "sh", "-c", "exit 7");
      assert.match(failed.stderr, /exit code 7|exit status 7/);
      assert.equal(ok("exec", "--sync", id, "echo", "synchronous"), "synchronous");
      assert.match(ok("exec", id, "ip", "-o", "addr", "show", "eth0"), /inet 10\./);
      ok("stop", "--timeout", "10", id);
      const log = crictl(daemon.socket, "logs", id);
      assert.equal(log.stdout, "out\nbye\n");
      assert.match(log.stderr, /^err$/m);
      const { status } = JSON.parse(ok("inspect", id));
      assert.equal(status.exitCode, 3);
      assert.equal(status.state, "CONTAINER_EXITED");
      ok("rm", id);
      const readonly = writeConfigs(`${handler}-readonly`, ["sleep", "600"], { readonly_rootfs: true });
      const reader = ok("create", podId, readonly.container, pod);
      ok("start", reader);
      // The image has no /etc/hosts: its mount point has to be made all the same.
      const look = "touch /x 2>/dev/null || echo read-only; grep -c localhost /etc/hosts";
      assert.match(ok("exec", "--sync", reader, "sh", "-c", look), /^read-only\n[1-9]/);
      ok("rm", "--force", reader);
      ok("stopp", podId);
      ok("stopp", podId);
      ok("rmp", podId);
      assert.equal(JSON.parse(ok("pods", "-o", "json")).items.length, 0);
    });
  }

  for (const handler of ["crun", "firecracker"]) {
    test(`${handler}: a killed daemon finds its pod again: nothing of the output or the exit code is lost`, async () => {
      const lines = 20_000;
      const script = `i=0; while [ $i -lt ${lines} ]; do i=$((i+1)); echo $i; done; sleep 1; exit 5`;
      const { pod, container } = writeConfigs(`survivor-${handler}`, ["sh", "-c", script]);
      const podId = ok("runp", "--runtime", handler, pod);
      const id = ok("create", podId, container, pod);
      ok("start", id);
      await daemon.kill9();
      daemon = await start();
      // An exec that ends with the container's own process: an event to wait for.
      crictl(
        daemon.socket,
        "exec",
        "--sync",
        id,
        "sh",
        "-c",
        "while kill -0 1 2>/dev/null; do sleep 0.1; done",
      );
      const { status } = JSON.parse(ok("inspect", id));
      const printed = ok("logs", id).split("\n");
      assert.equal(printed.length, lines);
      assert.equal(printed.at(-1), String(lines));
      assert.ok(printed.every((line, n) => line === String(n + 1)));
      assert.deepEqual([status.state, status.exitCode], ["CONTAINER_EXITED", 5]);
      ok("rmp", "-f", podId);
    });
  }

  test("impossible requests are refused by name", () => {
    const { pod } = writeConfigs("refused", ["true"]);
    const unknown = crictl(daemon.socket, "runp", "--runtime", "no-such-handler", pod);
    assert.notEqual(unknown.code, 0);
    assert.match(unknown.stderr, /no-such-handler/);
    assert.notEqual(crictl(daemon.socket, "inspect", "0123456789").code, 0);
  });

  test("nothing is left on the host", async () => {
    assert.equal(JSON.parse(ok("pods", "-o", "json")).items.length, 0);
    await tearDown();
    isDown = true;
    assertNothingAdded(snapshot);
  });
});
