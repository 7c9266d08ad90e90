/** Images through the real daemon: killed while it pulls, out of disk, with a password, from files by the CLI. */
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { pushBusyboxImage } from "./support/busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./support/cni.ts";
import { type CrictlResult, crictl, crictlPath } from "./support/crictl.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { assertNothingAdded, type Snapshot, snapshotHost } from "./support/leak-report.ts";
import { OwnRegistry } from "./support/own-registry.ts";
import { startRegistry, type TestRegistry } from "./support/test-registry.ts";

const program = join(import.meta.dirname, "../bin/tinderbox");
const work = mkdtempSync("/tmp/tb-");
let snapshot: Snapshot;
let registry: OwnRegistry;
let debian: TestRegistry;
let cni: TestCni;
let layer: Buffer;

before(async () => {
  snapshot = snapshotHost([]);
  registry = await new OwnRegistry().start();
  debian = await startRegistry({ dir: join(work, "registry") });
  await pushBusyboxImage(debian.url, "test/busybox", "v1");
  cni = writeBridgeConf(join(work, "cni"));
  writeFileSync(join(work, "big"), randomBytes(4 << 20));
  layer = execFileSync("tar", ["-C", work, "-cf", "-", "big"], { maxBuffer: 1 << 24 });
  registry.image("a/b", [layer]);
});

const start = (root: string): Promise<TestDaemon> =>
  startDaemon({
    root,
    state: join(work, "run"),
    configToml: cni.toml,
  });

/** Not at once: the registry is in this process. */
async function pull(daemon: TestDaemon, image: string): Promise<CrictlResult> {
  const endpoint = [
    "--runtime-endpoint",
    `unix://${daemon.socket}`,
    "--image-endpoint",
    `unix://${daemon.socket}`,
  ];
  const child = spawn(crictlPath, [...endpoint, "--timeout", "60s", "pull", image]);
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  return { code: child.exitCode ?? ((await once(child, "exit"))[0] as number | null), stdout, stderr };
}

const left = (root: string): string[] =>
  ["blocks", "ingest"].flatMap((name) => readdirSync(join(root, "images", name)));

describe("pulls that are cut short", () => {
  test("kill -9 of the daemon while it downloads: the next one has nothing of it, and pulls", async () => {
    const root = join(work, "killed");
    let daemon = await start(root);
    let reached = (): void => {};
    const isHalf = new Promise<void>((resolve) => (reached = resolve));
    registry.misbehave = (exchange) => {
      if (!exchange.path.includes("/blobs/") || exchange.body?.length !== layer.length)
        return exchange.serve();
      exchange.response.writeHead(200, { "content-length": layer.length });
      exchange.response.write(layer.subarray(0, 2 << 20), () => reached());
    };
    const given = spawn(program, ["--socket", daemon.socket, "pull", `${registry.host}/a/b`], {
      stdio: "ignore",
    });
    const ended = once(given, "exit");
    await isHalf;
    await daemon.kill9();
    assert.notEqual((await ended)[0], 0);
    assert.equal(left(root).length, 1, "the download was under way");
    daemon = await start(root);
    try {
      assert.deepEqual(left(root), []);
      assert.equal(crictl(daemon.socket, "images", "-q").stdout, "");
      registry.misbehave = undefined;
      assert.equal((await pull(daemon, `${registry.host}/a/b`)).code, 0);
      assert.equal(left(root).length, 1);
    } finally {
      await daemon.stop();
    }
  });

  test("a full disk: told as such, nothing left, the daemon lives, and a smaller image fits", async () => {
    const root = join(work, "small");
    mkdirSync(root);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=3m", "tmpfs", root]);
    try {
      const daemon = await start(root);
      const full = await pull(daemon, `${registry.host}/a/b`);
      assert.notEqual(full.code, 0);
      assert.match(full.stderr, /code = ResourceExhausted desc = .*\/images: no space left on the device/);
      assert.deepEqual(left(root), []);
      writeFileSync(join(work, "little"), "x");
      registry.image("a/little", [execFileSync("tar", ["-C", work, "-cf", "-", "little"])]);
      const fits = await pull(daemon, `${registry.host}/a/little`);
      assert.equal(fits.code, 0, fits.stderr);
      await daemon.stop();
    } finally {
      execFileSync("umount", [root]);
    }
  });

  test("a disk that fills up while layers are merged: the same", async () => {
    // Room for the layer, not for the image beside it.
    const root = join(work, "tight");
    mkdirSync(root);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=6m", "tmpfs", root]);
    try {
      const daemon = await start(root);
      const full = await pull(daemon, `${registry.host}/a/b`);
      assert.match(full.stderr, /code = ResourceExhausted/);
      assert.deepEqual(left(root), []);
      await daemon.stop();
    } finally {
      execFileSync("umount", [root]);
    }
  });
});

describe("a registry with a password", () => {
  // Of PHP's manual for crypt(): bcrypt of "rasmuslerdorf".
  const hash = "$2a$07$usesomesillystringfore2uDLvp1Ii2e./U9C8sBjqp8I90dH6hi";
  let closed: TestRegistry;
  let daemon: TestDaemon;
  before(async () => {
    const htpasswd = join(work, "htpasswd");
    writeFileSync(htpasswd, `me:${hash}\n`);
    // The image's files are those of the open registry.
    closed = await startRegistry({
      dir: join(work, "closed"),
      storage: join(work, "registry/data"),
      auth: `auth: { htpasswd: { realm: test, path: ${htpasswd} } }`,
    });
    daemon = await start(join(work, "password"));
  });
  after(async () => {
    await daemon.stop();
    await closed.stop();
  });

  test("docker-registry's htpasswd: without, with a wrong and with the right one", () => {
    const image = `${closed.host}/test/busybox:v1`;
    const without = crictl(daemon.socket, "pull", image);
    assert.match(
      without.stderr,
      /code = Unauthenticated desc = .*wants a user name and password, and none was given/,
    );
    const wrong = crictl(daemon.socket, "pull", "--creds", "me:guess", image);
    assert.match(wrong.stderr, /code = Unauthenticated desc = .*refused access \(HTTP 401\)/);
    assert.doesNotMatch(wrong.stderr, /desc = .*guess/);
    assert.doesNotMatch(daemon.said(), /guess/);
    const right = crictl(daemon.socket, "pull", "--creds", "me:rasmuslerdorf", image);
    assert.equal(right.code, 0, right.stderr);
    assert.match(crictl(daemon.socket, "images").stdout, /test\/busybox +v1 /);
  });
});

describe("from files, by the CLI", () => {
  let daemon: TestDaemon;
  const tinderbox = (...args: string[]) =>
    spawnSync(program, ["--socket", daemon.socket, ...args], {
      encoding: "utf8",
      timeout: 60_000,
      cwd: work,
    });

  before(async () => {
    daemon = await start(join(work, "files"));
    const copy = [
      "--insecure-policy",
      "copy",
      "--src-tls-verify=false",
      `docker://${debian.host}/test/busybox:v1`,
    ];
    execFileSync("skopeo", [...copy, `oci:${work}/layout:v1`], { stdio: "ignore" });
    execFileSync("skopeo", [...copy, `oci-archive:${work}/oci.tar`], { stdio: "ignore" });
    execFileSync("skopeo", [...copy, `docker-archive:${work}/docker.tar:test/box:7`], { stdio: "ignore" });
  });
  after(() => daemon.stop());

  for (const source of [
    "oci:layout",
    "oci:layout:v1",
    "oci-archive:oci.tar",
    "docker-archive:./docker.tar",
  ]) {
    test(`run ${source}`, () => {
      const result = tinderbox("run", "-q", "--runtime", "crun", source, "--", "echo", "it runs");
      assert.equal(result.stdout, "it runs\n", result.stderr);
      assert.equal(result.status, 0);
    });
  }

  test("pull: the id, a name of one's own, and what the source calls it", () => {
    const pulled = JSON.parse(tinderbox("--json", "pull", "--name", "my/box:3", "oci:layout").stdout);
    assert.match(pulled.id, /^sha256:[0-9a-f]{64}$/);
    tinderbox("pull", "docker-archive:docker.tar");
    const list: { repoTags: string[] }[] = JSON.parse(tinderbox("--json", "images").stdout);
    const tags = list.flatMap(({ repoTags }) => repoTags);
    for (const tag of ["docker.io/my/box:3", "docker.io/test/box:7", "localhost/layout:v1"])
      assert.ok(tags.includes(tag), tag);
    assert.equal(tinderbox("run", "-q", "--runtime", "crun", "my/box:3", "--", "true").status, 0);
  });

  test("what is not there is said; a name is not for images of registries; nothing of it through CRI", () => {
    const missing = tinderbox("pull", "oci-archive:none.tar");
    assert.equal(missing.status, 1);
    assert.match(
      missing.stderr,
      /^tinderbox: oci-archive:\/tmp\/tb-\w+\/none\.tar: \/tmp\/tb-\w+\/none\.tar is not there\n$/,
    );
    assert.match(
      tinderbox("pull", "--name", "x", "alpine").stderr,
      /--name x: only an image from files can get a name/,
    );
    assert.match(
      tinderbox("run", "--pull", "never", "oci:layout").stderr,
      /--pull never: oci:layout is read from its files each time/,
    );
    assert.match(
      crictl(daemon.socket, "pull", `oci-archive:${work}/oci.tar`).stderr,
      /InvalidArgument|could not parse|invalid/i,
    );
  });
});

test("nothing is left of all this", async () => {
  await registry.stop();
  await debian.stop();
  cni.remove();
  rmSync(work, { recursive: true, force: true });
  assertNothingAdded(snapshot);
});
