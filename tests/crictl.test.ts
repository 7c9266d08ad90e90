/** Every subcommand of the real crictl as a person would use it, on one daemon: crun, and the ones that differ in a microVM there too. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { type CrictlResult, crictlPath } from "./support/crictl.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

const work = mkdtempSync("/tmp/tb-");
const clientConfig = join(work, "crictl.yaml");
let snapshot: Snapshot;
let registry: TestRegistry;
let cni: TestCni;
let daemon: TestDaemon;
let repository = "";
let image = "";
let digest = "";
let serial = 0;

function run(args: readonly string[], input?: string): CrictlResult {
  const result = spawnSync(crictlPath, ["--config", clientConfig, ...args], {
    encoding: "utf8",
    timeout: 60_000,
    ...(input === undefined ? {} : { input }),
  });
  return { code: result.status, stdout: result.stdout, stderr: result.stderr };
}

/** Its standard output. */
function ok(...args: string[]): string {
  const { code, stdout, stderr } = run(args);
  assert.equal(code, 0, `crictl ${args.join(" ")}: ${stderr}`);
  return stdout.trim();
}

function json(...args: string[]): ReturnType<typeof JSON.parse> {
  return JSON.parse(ok(...args));
}

function fails(message: RegExp, ...args: string[]): void {
  const { code, stderr } = run(args);
  assert.notEqual(code, 0, args.join(" "));
  assert.match(stderr, message);
}

/** crictl on a terminal of 40 columns, with what is typed on it. */
function onTerminal(typed: string, ...args: string[]): string {
  const command = ["stty cols 40 rows 10 &&", crictlPath, "--config", clientConfig, ...args];
  const quoted = command.map((word, n) => (n === 0 ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
  const result = spawnSync("script", ["-qec", quoted, "/dev/null"], {
    encoding: "utf8",
    input: typed,
    timeout: 60_000,
  });
  assert.equal(result.status, 0, result.stdout);
  return result.stdout;
}

type Files = { readonly pod: string; readonly container: string };

/** The two files that crictl wants. */
function files(name: string, container: object = {}, pod: object = {}): Files {
  const paths = { pod: join(work, `${name}-pod.json`), container: join(work, `${name}.json`) };
  writeFileSync(
    paths.pod,
    JSON.stringify({
      metadata: { name, namespace: "test", uid: `${name}-${++serial}` },
      log_directory: join(work, "logs", name),
      labels: { of: name },
      linux: { security_context: { namespace_options: { pid: 1 } } },
      ...pod,
    }),
  );
  writeFileSync(
    paths.container,
    JSON.stringify({
      metadata: { name },
      image: { image },
      command: ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"],
      log_path: `${name}.log`,
      labels: { of: name },
      linux: { security_context: { namespace_options: { pid: 1 } } },
      ...container,
    }),
  );
  return paths;
}

/** `crictl run`: a container in a pod of its own. */
function begin(handler: string, name: string, container: object = {}, pod: object = {}): string {
  const paths = files(name, container, pod);
  return ok("run", "--runtime", handler, paths.container, paths.pod);
}

const podOf = (container: string): string =>
  json("ps", "-a", "--id", container, "-o", "json").containers[0].podSandboxId;

before(async () => {
  snapshot = snapshotHost([]);
  registry = await startRegistry({ dir: join(work, "registry") });
  repository = `${registry.host}/test/busybox`;
  image = `${repository}:latest`;
  digest = await pushBusyboxImage(registry.url, "test/busybox", "latest");
  await pushBusyboxImage(registry.url, "test/busybox", "again");
  await pushBusyboxImage(registry.url, "test/unused", "latest", [Buffer.alloc(1024)]);
  cni = writeBridgeConf(join(work, "cni"));
  daemon = await startDaemon({
    root: join(work, "root"),
    state: join(work, "run"),
    configToml: `[cni]\nconf_dir = ${JSON.stringify(cni.confDir)}\nbin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]\n`,
  });
  const endpoint = `unix://${daemon.socket}`;
  writeFileSync(clientConfig, `runtime-endpoint: ${endpoint}\nimage-endpoint: ${endpoint}\ntimeout: 60\n`);
});

let isDown = false;
const tearDown = async (): Promise<void> => {
  isDown = true;
  run(["rmp", "-f", "-a"]);
  await daemon.stop();
  await registry.stop();
  cni.remove();
  rmSync(work, { recursive: true, force: true });
};
after(async () => {
  if (!isDown) await tearDown();
});

describe("crictl about the runtime", () => {
  test("version, info, runtime-config, update-runtime-config, imagefsinfo", () => {
    assert.match(ok("version"), /RuntimeName: {2}tinderbox\n.*\nRuntimeApiVersion: {2}v1$/s);
    const { status, config } = json("info");
    const isGood = (type: string): unknown =>
      status.conditions.find((one: { type: string }) => one.type === type)?.status;
    assert.deepEqual([isGood("RuntimeReady"), isGood("NetworkReady")], [true, true]);
    assert.equal(config.defaultRuntime, "crun");
    assert.match(ok("info", "-o", "go-template", "--template", "{{.config.root}}"), /\/root$/);
    assert.match(ok("runtime-config"), /^cgroup driver:\s+CGROUPFS$/);
    ok("update-runtime-config", "--pod-cidr", "10.1.0.0/16");
    const { status: fs } = json("imagefsinfo");
    assert.equal(fs.imageFilesystems[0].fsId.mountpoint, join(work, "root/images"));
  });

  test("its own configuration, completion and help need no runtime", () => {
    const config = join(work, "other.yaml");
    writeFileSync(config, "timeout: 20 # seconds\n");
    const other = (...args: string[]): string => {
      const { code, stdout, stderr } = run(["--config", config, ...args]);
      assert.equal(code, 0, stderr);
      return stdout;
    };
    other("config", "--set", "timeout=7,debug=true");
    assert.equal(other("config", "--get", "timeout").trim(), "7");
    assert.match(other("config", "--list"), /debug\s+true/);
    assert.match(readFileSync(config, "utf8"), /timeout: 7 # seconds/);
    for (const shell of ["bash", "zsh", "fish"])
      assert.match(ok("completion", shell), /runp|generate-shell-completion/);
    fails(/flag provided but not defined/, "--no-such-flag");
    assert.match(ok("pull", "jsonschema"), /PodSandboxConfig/);
  });

  test("nothing there: -a has nothing to remove, filters find nothing", () => {
    for (const [command, what] of [
      ["rm", "containers"],
      ["rmp", "pods"],
      ["rmi", "images"],
    ] as const) {
      const { code, stderr } = run([command, "-a"]);
      assert.equal(code, 0);
      assert.match(stderr, new RegExp(`No ${what} to remove`));
    }
    assert.match(run(["inspect", "-a"]).stderr, /nothing found per filter/);
    assert.deepEqual(json("ps", "-a", "-o", "json").containers, []);
    assert.deepEqual(json("stats", "-o", "json").stats, []);
    assert.deepEqual(json("statsp", "-o", "json").stats, []);
  });
});

describe("crictl about images", () => {
  test("pull without a tag, by tag, by digest: one image with every name", () => {
    for (const name of [repository, `${repository}:again`, `${repository}@${digest}`])
      assert.match(ok("pull", name), /^Image is up to date for sha256:[0-9a-f]{64}$/);
    const { images } = json("images", "-o", "json");
    assert.equal(images.length, 1);
    assert.deepEqual(images[0].repoTags.toSorted(), [`${repository}:again`, image]);
    assert.deepEqual(images[0].repoDigests, [`${repository}@${digest}`]);
    assert.equal(ok("images", "-q"), images[0].id);
    assert.match(
      ok("images", "--digests", "--pinned"),
      new RegExp(`latest +${digest.slice(7, 20)} .* false$`, "m"),
    );
    assert.match(
      ok("images", "-v", image),
      new RegExp(`^ID: ${images[0].id}\nRepoTags: .*\nRepoTags: ${image}$`, "m"),
    );
    assert.match(ok("images", "-o", "yaml"), /repoTags:/);
    fails(/pulling image.*registry|pulling image.*not/is, "pull", `${registry.host}/test/none`);
    fails(/pulling image/, "pull", "localhost/wrong");
    fails(/pulling image.*sha256/s, "pull", `${repository}@sha256:${"0".repeat(64)}`);
  });

  test("images' filters, and inspecti in each form: one is an object, two are a list", () => {
    ok("pull", `${registry.host}/test/unused`);
    const unused = `${registry.host}/test/unused:latest`;
    const [id, other] = [ok("images", "-q", image), ok("images", "-q", unused)];
    assert.notEqual(id, other);
    const filtered = (filter: string): string => ok("images", "--filter", filter, "-q");
    assert.equal(filtered(`reference=${repository}`), id);
    assert.equal(filtered("reference=.*unused.*"), other);
    assert.equal(filtered("dangling=true"), "");
    const one = json("inspecti", image);
    assert.equal(one.status.id, id);
    assert.deepEqual(one.info.imageSpec.config.Env, ["PATH=/bin"]);
    assert.equal(json("inspecti", image, unused).length, 2);
    assert.match(ok("inspecti", "-o", "yaml", image), /^status:$/m);
    assert.equal(ok("inspecti", "-o", "go-template", "--template", "{{.status.id}}", image), id);
    fails(/no such image/, "inspecti", `${registry.host}/test/none`);
  });

  test("rmi by name and by prefix of an id; --prune leaves what a container uses; -a leaves nothing", () => {
    const container = begin("crun", "user");
    ok("rmi", "--prune");
    assert.deepEqual(
      json("images", "-o", "json").images.map(({ repoTags }: { repoTags: string[] }) => repoTags.toSorted()),
      [[`${repository}:again`, image]],
    );
    ok("rmp", "-f", podOf(container));
    ok("pull", `${registry.host}/test/unused`);
    ok("rmi", `${registry.host}/test/unused`);
    assert.equal(ok("images", "-q").split("\n").length, 1);
    ok("rmi", ok("images", "-q").slice(0, 20));
    assert.equal(ok("images", "-q"), "");
    fails(/no such image/, "rmi", image);
    ok("pull", image);
    ok("rmi", "-a");
    assert.equal(ok("images", "-q"), "");
    ok("pull", image);
  });
});

describe("crictl about pods and containers", () => {
  test("runp with metadata alone; pods by every filter; inspectp in each form", () => {
    const made = ["one", "two"].map((name) => {
      const path = join(work, `bare-${name}.json`);
      const metadata = { name, uid: `uid-${name}`, namespace: `ns-${name}` };
      writeFileSync(
        path,
        JSON.stringify(name === "one" ? { metadata } : { metadata, labels: { tier: "back" } }),
      );
      return ok("runp", path);
    });
    const [one = "", two = ""] = made;
    const found = (...args: string[]): readonly string[] =>
      ok("pods", "-q", ...args)
        .split("\n")
        .filter(Boolean);
    assert.deepEqual(found().toSorted(), made.toSorted());
    assert.deepEqual(found("--id", one.slice(0, 13)), [one]);
    assert.deepEqual(found("--name", "^tw"), [two]);
    assert.deepEqual(found("--namespace", "ns-one"), [one]);
    assert.deepEqual(found("--label", "tier=back"), [two]);
    assert.deepEqual(found("--label", "tier=front"), []);
    assert.deepEqual(found("--latest"), [two]);
    assert.deepEqual(found("--last", "2"), [two, one]);
    ok("stopp", one);
    ok("stopp", one);
    assert.deepEqual([found("--state", "Ready"), found("--state", "NotReady")], [[two], [one]]);
    assert.match(ok("pods"), new RegExp(`^${one.slice(0, 13)} .* NotReady +one +ns-one +0 +crun$`, "m"));
    assert.match(ok("pods", "-v"), /^Labels:\n\s+tier -> back$/m);
    assert.match(ok("pods", "-o", "yaml"), /^items:$/m);
    const { info, status } = json("inspectp", two);
    assert.equal(status.metadata.name, "two");
    assert.equal(info.runtimeHandler, "crun");
    assert.equal(json("inspectp", one, two).length, 2);
    assert.match(ok("inspectp", "-o", "yaml", one), /state: SANDBOX_NOTREADY/);
    assert.match(ok("inspectp", "-o", "table", two), /^IP Addresses: 10\./m);
    assert.equal(
      ok("inspectp", "-o", "go-template", "--template", "{{.status.state}}", two),
      "SANDBOX_READY",
    );
    fails(/is running, please stop it first/, "rmp", two);
    fails(/does not exist/, "inspectp", "0123456789ab");
    // What is gone is removed already.
    ok("rmp", "-f", "-a");
    assert.deepEqual(found(), []);
  });

  test("create with a pull, start several, ps by every filter, inspect in each form, stop and rm", () => {
    ok("rmi", "-a");
    const paths = files("many");
    const pod = ok("runp", paths.pod);
    const second = files("second", { labels: { of: "second" } });
    fails(/NotFound.*is not on this node/, "create", "--no-pull", pod, paths.container, paths.pod);
    const made = [paths, second].map(({ container }) =>
      ok("create", "--with-pull", pod, container, paths.pod),
    );
    const [one = "", two = ""] = made;
    // A kubelet that did not hear the answer asks again: the same names are the same pod and container.
    assert.equal(ok("runp", paths.pod), pod);
    assert.equal(ok("create", pod, paths.container, paths.pod), one);
    const found = (...args: string[]): readonly string[] =>
      ok("ps", "-q", ...args)
        .split("\n")
        .filter(Boolean);
    assert.deepEqual(found(), []);
    assert.deepEqual(found("--state", "Created").toSorted(), made.toSorted());
    assert.deepEqual(ok("start", one, two).split("\n"), made);
    fails(/not in the state created|running/i, "start", one);
    assert.deepEqual(found("--id", one.slice(0, 10)), [one]);
    assert.deepEqual(found("--name", "sec"), [two]);
    assert.deepEqual(found("--label", "of=many"), [one]);
    assert.deepEqual(found("--pod", pod.slice(0, 13)).toSorted(), made.toSorted());
    assert.deepEqual(found("--image", image).toSorted(), made.toSorted());
    assert.deepEqual(found("--latest"), [two]);
    ok("stop", "--timeout", "10", two);
    assert.deepEqual([found("--state", "Running"), found("--state", "Exited")], [[one], [two]]);
    assert.equal(found("-a").length, 2);
    assert.match(
      ok("ps", "-r"),
      new RegExp(`^${one.slice(0, 13)} +${image} .* Running +many +0 +${pod.slice(0, 13)}`, "m"),
    );
    const { info, status } = json("inspect", one);
    assert.deepEqual(
      [status.state, status.image.image, status.labels],
      ["CONTAINER_RUNNING", image, { of: "many" }],
    );
    assert.equal(info.sandboxID, pod);
    assert.equal(info.config.command.length, 3);
    // What people give to nsenter.
    assert.match(readFileSync(`/proc/${info.pid}/cgroup`, "utf8"), new RegExp(one));
    assert.equal(json("inspect", two).info.pid, 0);
    assert.equal(json("inspect", one, two).length, 2);
    assert.equal(json("inspect", "--image", image).status.id, one);
    assert.match(ok("inspect", "-o", "yaml", two), /state: CONTAINER_EXITED/);
    assert.equal(ok("inspect", "-o", "go-template", "--template", "{{.status.exitCode}}", two), "0");
    assert.match(ok("inspect", "-o", "table", one), /^State: CONTAINER_RUNNING$/m);
    assert.match(run(["inspect", "--image", "wrong"]).stderr, /nothing found per filter/);
    fails(/is running, please stop it first/, "rm", one);
    const log = json("inspect", two).status.logPath;
    ok("rm", "--keep-logs", two);
    assert.equal(existsSync(log), true);
    ok("rm", "-f", "-a");
    assert.deepEqual(found("-a"), []);
    ok("stopp", pod);
    ok("rmp", pod);
  });

  test("update: told back, and in the container's cgroup", () => {
    const container = begin("crun", "updated");
    ok(
      "update",
      "--memory",
      "67108864",
      "--cpu-quota",
      "20000",
      "--cpu-period",
      "100000",
      "--cpu-share",
      "512",
      container,
    );
    const { linux } = json("inspect", container).status.resources;
    assert.deepEqual(
      [linux.memoryLimitInBytes, linux.cpuQuota, linux.cpuPeriod, linux.cpuShares],
      ["67108864", "20000", "100000", "512"],
    );
    const limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null";
    assert.equal(ok("exec", container, "sh", "-c", `${limit} || true`), "67108864");
    fails(/cpuset/, "update", "--cpuset-cpus", "4000", container);
    ok("rmp", "-f", podOf(container));
  });

  test("events: what happens to a pod and its container, in order, in each form", async () => {
    const follow = (...args: string[]) => {
      const child = spawn(crictlPath, ["--config", clientConfig, "events", ...args], {
        stdio: ["ignore", "pipe", "pipe"],
      });
      let said = "";
      const until = (wanted: RegExp): Promise<string> =>
        new Promise((resolve, reject) => {
          const look = (): void => {
            if (wanted.test(said)) resolve(said);
          };
          child.stdout.on("data", look);
          child.once("exit", () => reject(new Error(`events ended: ${said}`)));
          look();
        });
      child.stdout.on("data", (chunk: Buffer) => {
        said += chunk.toString("utf8");
      });
      return { child, until };
    };
    fails(/don't support .* format/, "events", "--output", "ini");
    fails(/failed to parse go-template/, "events", "--output", "go-template", "--template", "{{");
    const template = follow("-o", "go-template", "--template", "{{.containerEventType}} {{.containerId}}");
    const plain = follow();
    // Nothing says that a subscription stands: pods are made until both have told of one.
    const first = template.until(/CREATED/);
    const second = plain.until(/CREATED/);
    let isHeard = false;
    const both = Promise.all([first, second]).then(() => {
      isHeard = true;
    });
    while (!isHeard) {
      ok("rmp", "-f", ok("runp", files("probe").pod));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await both;
    const container = begin("crun", "watched", { command: ["true"] });
    const lines = await template.until(new RegExp(`CONTAINER_STOPPED_EVENT ${container}`));
    const mine = lines.split("\n").filter((line) => line.endsWith(container));
    assert.deepEqual(
      mine.map((line) => line.split(" ")[0]),
      ["CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT"],
    );
    assert.match(await plain.until(new RegExp(container)), /"podSandboxStatus"/);
    for (const { child } of [template, plain]) {
      child.removeAllListeners("exit");
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    }
    ok("rmp", "-f", podOf(container));
  });
});

for (const handler of ["crun", "firecracker"]) {
  describe(`crictl's streams, logs and figures on ${handler}`, () => {
    let container = "";
    let pod = "";
    before(() => {
      const script =
        "trap 'echo bye; exit 0' TERM; echo one; echo two >&2; echo three; httpd -p 8080 -h /etc; while :; do sleep 1 & wait; done";
      container = begin(handler, `streams-${handler}`, { command: ["sh", "-c", script] });
      pod = podOf(container);
    });
    after(() => {
      run(["rmp", "-f", "-a"]);
    });

    test("exec: output, exit codes, standard input, several containers, both transports", () => {
      for (const transport of ["spdy", "websocket"]) {
        assert.equal(ok("exec", "-r", transport, container, "echo", "hello"), "hello");
        fails(/exit code 9/, "exec", "-r", transport, container, "sh", "-c", "exit 9");
        const { code, stdout } = run(
          ["exec", "-i", "-r", transport, container, "sh", "-c", "cat; echo end"],
          "typed\n",
        );
        assert.deepEqual([code, stdout], [0, "typed\nend\n"]);
      }
      assert.equal(ok("exec", "--sync", container, "echo", "hello"), "hello");
      fails(/exited with 9: oops/, "exec", "--sync", container, "sh", "-c", "echo oops >&2; exit 9");
      fails(/timed out|timeout|deadline/i, "exec", "--sync", "--timeout", "1", container, "sleep", "100");
      fails(/no-such-program/, "exec", container, "no-such-program");
      assert.match(ok("exec", "--label", `of=streams-${handler}`, "echo", "by label"), /by label/);
      fails(/0123456789ab\\?" does not exist/, "exec", "0123456789ab", "true");
    });

    test("exec -it: a terminal of the client's size", () => {
      // The client tells its size once the streams stand, which may be after the process began.
      const sized = "test -t 0; until stty size 2>/dev/null | grep '^10 40$'; do sleep 0.1; done";
      assert.match(onTerminal("", "exec", "-it", container, "sh", "-ec", sized), /10 40\r?$/m);
      const typed = onTerminal("echo $((6*7))\nexit\n", "exec", "-it", container, "sh");
      assert.match(typed, /^42\r?$/m);
    });

    test("attach: standard input and output of the container's own process, with a terminal and without", () => {
      const script = "read a; echo got $a; read b";
      const base = { command: ["sh", "-c", script], stdin: true, stdin_once: true };
      const paths = files(`attached-${handler}`, base);
      const plain = ok("create", pod, paths.container, paths.pod);
      ok("start", plain);
      const { stdout } = run(["attach", "-i", plain], "line\n");
      assert.equal(stdout, "got line\n");
      const tty = files(`terminal-${handler}`, { ...base, tty: true });
      const terminal = ok("create", pod, tty.container, tty.pod);
      ok("start", terminal);
      assert.match(onTerminal("line\nlast\n", "attach", "-it", terminal), /^got line\r?$/m);
      assert.equal(ok("logs", plain), "got line");
    });

    test("logs: tail, since, time stamps, one stream, limit, follow to the end, reopen", async () => {
      ok("logs", container);
      assert.equal(run(["logs", container]).stdout, "one\nthree\n");
      // Between two streams the order is that in which the agent came to them.
      const path = ok("inspect", "-o", "go-template", "--template", "{{.status.logPath}}", container);
      const last = readFileSync(path, "utf8").trimEnd().split(" ").at(-1);
      const { stdout, stderr } = run(["logs", "--tail", "1", container]);
      assert.ok(stdout === `${last}\n` || stderr.endsWith(`${last}\n`), `${last}: ${stdout}; ${stderr}`);
      assert.match(run(["logs", "--stream", "stderr", container]).stderr, /^two$/m);
      assert.equal(ok("logs", "--stream", "stdout", "--limit-bytes", "3", container), "one");
      assert.match(ok("logs", "-t", container), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\S* one$/m);
      assert.equal(ok("logs", "--since", "2000-01-02T03:04:05Z", container), "one\nthree");
      assert.equal(ok("logs", "--since", "2999-01-02T03:04:05Z", container), "");
      ok("logs", "--reopen", container);
      const following = spawn(crictlPath, ["--config", clientConfig, "logs", "-f", container], {
        stdio: ["ignore", "pipe", "ignore"],
      });
      let said = "";
      const caughtUp = new Promise<void>((resolve) => {
        following.stdout.on("data", (chunk: Buffer) => {
          said += chunk.toString("utf8");
          if (said.includes("three")) resolve();
        });
      });
      const ended = once(following, "exit");
      await caughtUp;
      ok("stop", "--timeout", "10", container);
      await ended;
      assert.equal(said, "one\nthree\nbye\n");
      fails(/not running|exited/, "logs", "--reopen", container);
      // The container is started no more; the others go on with one like it.
      const again = files(`again-${handler}`, { command: ["sh", "-c", "httpd -f -p 8080 -h /etc"] });
      container = ok("create", pod, again.container, again.pod);
      ok("start", container);
    });

    test("port-forward: a server of the pod, by both transports", async () => {
      for (const transport of ["spdy", "websocket"]) {
        const probe = createServer().listen(0, "127.0.0.1");
        await once(probe, "listening");
        const address = probe.address();
        assert.ok(typeof address === "object" && address);
        probe.close();
        const child = spawn(
          crictlPath,
          ["--config", clientConfig, "port-forward", "-r", transport, pod, `${address.port}:8080`],
          {
            stdio: ["ignore", "pipe", "inherit"],
          },
        );
        await once(child.stdout, "data");
        for (let n = 0; n < 3; n++) {
          const answer = await fetch(`http://127.0.0.1:${address.port}/passwd`, {
            headers: { connection: "close" },
          });
          assert.match(await answer.text(), /^root:x:0:0/);
        }
        const ended = once(child, "exit");
        child.kill("SIGKILL");
        await ended;
      }
    });

    test("containers are removed while their pod is stopped: every call is good", async () => {
      const other = files(`racing-${handler}`);
      const racing = ok("runp", "--runtime", handler, other.pod);
      const made = [1, 2, 3, 4, 5, 6].map((n) => {
        const one = files(`racing-${handler}-${n}`);
        return ok("create", racing, one.container, other.pod);
      });
      const begin = async (...args: string[]): Promise<string> => {
        const child = spawn(crictlPath, ["--config", clientConfig, ...args], {
          stdio: ["ignore", "ignore", "pipe"],
        });
        let said = "";
        child.stderr.on("data", (chunk: Buffer) => {
          said += chunk.toString("utf8");
        });
        const [code] = await once(child, "close");
        return code === 0 ? "" : said;
      };
      const calls = [...made.map((id) => begin("rm", "-f", id)), begin("stopp", racing)];
      assert.deepEqual((await Promise.all(calls)).filter(Boolean), []);
      ok("rmp", racing);
    });

    test("stats, statsp, metricsp, metricdescs", () => {
      const [{ attributes, memory, cpu }] = json("stats", "--id", container, "-o", "json").stats;
      assert.equal(attributes.id, container);
      assert.ok(Number(memory.workingSetBytes.value) > 0 && Number(cpu.usageCoreNanoSeconds.value) > 0);
      assert.match(ok("stats", "--seconds", "0", container), new RegExp(container.slice(0, 13)));
      const [stats] = json("statsp", "--id", pod, "-o", "json").stats;
      assert.ok(Number(stats.linux.memory.workingSetBytes.value) > 0);
      assert.match(ok("statsp", "--seconds", "0", pod), new RegExp(pod.slice(0, 13)));
      const { podMetrics } = json("metricsp");
      assert.ok(podMetrics.some((one: { podSandboxId: string }) => one.podSandboxId === pod));
      assert.ok(json("metricdescs").descriptors.length > 40);
    });
  });
}

test("nothing is left on the host", async () => {
  await tearDown();
  assertNothingAdded(snapshot);
});
