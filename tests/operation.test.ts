/** What an operator has: metrics, health, reload, status, and what systemd is told; by the real daemon. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, request } from "node:http";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";

const bin = join(import.meta.dirname, "../bin");

describe("operation", () => {
  const work = mkdtempSync("/tmp/tb-");
  const metrics = join(work, "run", "metrics.sock");
  const config = join(work, "root", "test-config.toml");
  let cni: TestCni;
  let daemon: TestDaemon;

  const get = async (path: string, method = "GET"): Promise<{ status: number; text: string }> => {
    const outgoing = request({ socketPath: metrics, path, method, agent: false });
    outgoing.end();
    const [answer] = await once(outgoing, "response");
    let text = "";
    for await (const chunk of answer.setEncoding("utf8")) text += chunk;
    return { status: answer.statusCode, text };
  };
  const toml = (more: string): string => `${cni.toml}[metrics]\nlisten = ${JSON.stringify(metrics)}\n${more}`;
  const rewrite = (more: string): void => {
    const head = `root = ${JSON.stringify(join(work, "root"))}\nstate = ${JSON.stringify(join(work, "run"))}\nlisten = ${JSON.stringify(daemon.socket)}\n`;
    writeFileSync(config, head + toml(more));
  };
  /** Resolves when the daemon has said something of the kind, after `act`. */
  const saysAfter = async (act: () => void, wanted: RegExp): Promise<string> => {
    const before = daemon.said().length;
    act();
    const over = AbortSignal.timeout(10_000);
    for (;;) {
      const said = daemon.said().slice(before);
      if (wanted.test(said)) return said;
      assert.ok(daemon.child.stderr);
      await once(daemon.child.stderr, "data", { signal: over });
    }
  };

  before(async () => {
    cni = writeBridgeConf(join(work, "cni"));
    daemon = await startDaemon({ root: join(work, "root"), state: join(work, "run"), configToml: toml("") });
  });
  after(async () => {
    await daemon.stop();
    cni.remove();
    rmSync(work, { recursive: true, force: true });
  });

  test("metrics and health are served on a private socket", async () => {
    assert.equal(statSync(metrics).mode & 0o777, 0o600);
    assert.deepEqual(await get("/healthz"), { status: 200, text: "ok\n" });
    assert.deepEqual(await get("/readyz"), { status: 200, text: "ok\n" });
    assert.equal((await get("/nothing")).status, 404);
    assert.equal((await get("/metrics", "POST")).status, 405);
    const status = spawnSync(join(bin, "tinderbox"), ["--socket", daemon.socket, "--json", "status"], {
      encoding: "utf8",
    });
    assert.equal(status.status, 0, status.stderr);
    const shown = JSON.parse(status.stdout);
    assert.deepEqual(
      shown.conditions.map(({ type, isTrue }: { type: string; isTrue: boolean }) => [type, isTrue]),
      [
        ["RuntimeReady", true],
        ["NetworkReady", true],
      ],
    );
    assert.deepEqual(shown.handlers, ["crun", "runc", "firecracker"]);
    const { text } = await get("/metrics");
    assert.match(text, /^tinderbox_cri_calls_total\{method="Status",code="OK"\} 1$/m);
    assert.match(text, /^tinderbox_cri_call_duration_seconds_count\{method="ListImages"\} 1$/m);
    assert.match(text, /^tinderbox_images 0$/m);
    assert.match(text, /^tinderbox_build_info\{version="[\d.]+"\} 1$/m);
    assert.match(text, /^process_resident_memory_bytes \d+$/m);
  });

  test("a call that failed is counted by its code", async () => {
    const missing = spawnSync(join(bin, "tinderbox"), ["--socket", daemon.socket, "stop", "0123456789"]);
    assert.notEqual(missing.status, 0);
    const pull = spawnSync(join(bin, "tinderbox"), ["--socket", daemon.socket, "pull", "127.0.0.1:1/x:y"]);
    assert.notEqual(pull.status, 0);
    assert.match(
      (await get("/metrics")).text,
      /^tinderbox_cri_calls_total\{method="PullImage",code="REGISTRY"\} 1$/m,
    );
  });

  test("a network that is not ready is told by /readyz and by status", async () => {
    await saysAfter(() => cni.remove(), /network/i);
    const { status, text } = await get("/readyz");
    assert.equal(status, 503);
    assert.match(text, /^network: /);
    const shown = spawnSync(join(bin, "tinderbox"), ["--socket", daemon.socket, "status"], {
      encoding: "utf8",
    });
    assert.equal(shown.status, 1);
    assert.match(shown.stdout, /NetworkReady +no +/);
    cni = writeBridgeConf(join(work, "cni"));
  });

  test("SIGHUP: what can count at once does, the rest is named, and a wrong file changes nothing", async () => {
    const asked: string[] = [];
    const mirror = createServer((incoming, answer) => {
      asked.push(incoming.url ?? "");
      answer.writeHead(404).end();
    });
    await new Promise<void>((resolve) => mirror.listen(0, "127.0.0.1", resolve));
    const address = mirror.address();
    assert.ok(typeof address === "object" && address !== null);
    try {
      rewrite(`[registries."nowhere.invalid"]\nmirrors = ["http://127.0.0.1:${address.port}"]\n`);
      const said = await saysAfter(() => daemon.child.kill("SIGHUP"), /configuration read again/);
      assert.match(said, /registries=nowhere\.invalid/);
      const pull = spawn(join(bin, "tinderbox"), ["--socket", daemon.socket, "pull", "nowhere.invalid/x:y"], {
        stdio: "ignore",
      });
      assert.notEqual((await once(pull, "exit"))[0], 0);
      assert.deepEqual(asked, ["/v2/x/manifests/y"]);
    } finally {
      mirror.close();
    }
    rewrite('[runtimes.runc]\ntype = "oci"\npath = "runc"\n[runtimes.crun]\ntype = "oci"\npath = "crun"\n');
    assert.match(
      await saysAfter(() => daemon.child.kill("SIGHUP"), /count after a restart/),
      /keys=runtimes/,
    );
    rewrite("[runtimes.x]\n");
    assert.match(
      await saysAfter(() => daemon.child.kill("SIGHUP"), /was not read again/),
      /test-config\.toml: runtimes\.x/,
    );
    assert.equal((await get("/healthz")).status, 200);
  });

  test("systemd is told that the daemon is ready, lives and stops", async () => {
    const notify = join(work, "notify.sock");
    // The manager's side of sd_notify(3); Node has no datagram sockets of this kind.
    const listen =
      "use Socket; $| = 1; socket(S, PF_UNIX, SOCK_DGRAM, 0); bind(S, sockaddr_un($ARGV[0])); print qq(bound\n); while (recv(S, $m, 4096, 0), $m) { print $m, qq(\n) }";
    const manager = spawn("perl", ["-e", listen, notify], { stdio: ["ignore", "pipe", "inherit"] });
    let heard = "";
    const hear = async (wanted: RegExp): Promise<void> => {
      const over = AbortSignal.timeout(10_000);
      while (!wanted.test(heard)) await once(manager.stdout, "data", { signal: over });
    };
    manager.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      heard += chunk;
    });
    await hear(/^bound$/m);
    const own = spawn(
      join(bin, "tinderboxd"),
      ["--root", join(work, "root2"), "--state", join(work, "run2"), "--log-level", "error"],
      {
        stdio: ["ignore", "inherit", "inherit"],
        env: { ...process.env, NOTIFY_SOCKET: notify, WATCHDOG_USEC: "200000" },
      },
    );
    try {
      await hear(/^READY=1$/m);
      await hear(/^WATCHDOG=1$/m);
      own.kill("SIGTERM");
      await hear(/^STOPPING=1$/m);
    } finally {
      own.kill("SIGKILL");
      manager.kill("SIGKILL");
    }
  });
});
