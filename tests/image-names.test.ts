/** Names without a registry, pinned names, and the same image under the same names in every call. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import type { ImageService } from "../packages/tinderbox/src/image/contract.ts";
import { openImageService } from "../packages/tinderbox/src/image/image-service.ts";
import { defaultImageSettings, type ImageSettings } from "../packages/tinderbox/src/image/image-settings.ts";
import type { ShortNames } from "../packages/tinderbox/src/image/short-names.ts";
import { NamespaceMode } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { TestCri } from "./support/cri-client.ts";
import { startDaemon } from "./support/daemon.ts";
import { OwnRegistry } from "./support/own-registry.ts";

const work = mkdtempSync("/tmp/tb-names-");
let first: OwnRegistry;
let second: OwnRegistry;
let images: ImageService;
let settings: ImageSettings;
let count = 0;

function layerOf(name: string): Buffer {
  const directory = join(work, "layers");
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, name), name);
  return execFileSync("tar", ["-C", directory, "-cf", "-", name]);
}

function shortNames(names: Partial<ShortNames>): void {
  settings = { ...settings, shortNames: { ...defaultImageSettings.shortNames, ...names } };
}

before(async () => {
  first = await new OwnRegistry().start();
  second = await new OwnRegistry().start();
  first.image("both", [layerOf("first")]);
  second.image("both", [layerOf("second")]);
  second.image("team/only-second", [layerOf("only")], "v2");
});
after(async () => {
  await first.stop();
  await second.stop();
  rmSync(work, { recursive: true, force: true });
});
beforeEach(async () => {
  settings = defaultImageSettings;
  for (const registry of [first, second]) {
    registry.misbehave = undefined;
    registry.requests.length = 0;
    registry.authorizations.length = 0;
  }
  images = await openImageService({
    root: join(work, `root-${count++}`),
    settings: () => settings,
    logger: createLogger({ level: "error", format: "text" }),
    patience: { stallMs: 300, pauseMs: 10 },
  });
});
afterEach(() => images.close());

describe("short names", () => {
  test("one registry to search: the image is called by its whole name, and found by the short one", async () => {
    shortNames({ searchRegistries: [second.host] });
    const image = await images.pull("team/only-second:v2");
    assert.deepEqual(image.repoTags, [`${second.host}/team/only-second:v2`]);
    const digest = image.repoDigests[0]?.split("@")[1] ?? "";
    for (const name of ["team/only-second:v2", `team/only-second@${digest}`, image.id, image.id.slice(7, 19)])
      assert.equal(images.get(name)?.id, image.id, name);
    assert.equal(images.get("team/only-second"), undefined);
    assert.equal(images.get("only-second:v2"), undefined);
    await images.remove("team/only-second:v2");
    assert.deepEqual(images.list(), []);
  });

  test("enforcing: a name that several registries could have is refused everywhere, and nobody is asked", async () => {
    shortNames({ searchRegistries: [first.host, second.host] });
    const ambiguous = {
      code: "IMAGE_REFERENCE",
      message: `image "both": this could be ${first.host}/both or ${second.host}/both`,
    };
    await assert.rejects(images.pull("both"), ambiguous);
    assert.throws(() => images.get("both"), ambiguous);
    await assert.rejects(images.remove("both"), ambiguous);
    assert.deepEqual([...first.requests, ...second.requests], []);
    // Ids and whole names are never short.
    const { id } = await images.pull(`${second.host}/both`);
    assert.equal(images.get(id)?.id, id);
    assert.equal(images.get(`sha256:${"0".repeat(64)}`), undefined);
  });

  for (const mode of ["permissive", "disabled"] as const)
    test(`${mode}: the registries are asked in their order, and what is found is had`, async () => {
      shortNames({ searchRegistries: [first.host, second.host], mode });
      const found = await images.pull("both");
      assert.deepEqual(found.repoTags, [`${first.host}/both:latest`]);
      assert.deepEqual(second.requests, []);
      assert.deepEqual((await images.pull("team/only-second:v2")).repoTags, [
        `${second.host}/team/only-second:v2`,
      ]);
      assert.equal(images.get("both")?.id, found.id);
      await assert.rejects(images.pull("neither"), {
        code: "NOT_FOUND",
        message: new RegExp(
          `^image "neither": ${first.host}/neither: .*HTTP 404\\); ${second.host}/neither: `,
        ),
      });
    });

  test("an alias decides, with the tag or digest that was asked for", async () => {
    shortNames({
      searchRegistries: [first.host, second.host],
      aliases: new Map([
        ["both", `${second.host}/both`],
        ["tools/two", `${second.host}/team/only-second`],
      ]),
    });
    const image = await images.pull("both");
    assert.deepEqual(image.repoTags, [`${second.host}/both:latest`]);
    const two = await images.pull("tools/two:v2");
    assert.deepEqual(two.repoTags, [`${second.host}/team/only-second:v2`]);
    const digest = two.repoDigests[0]?.split("@")[1] ?? "";
    assert.equal(images.get(`tools/two@${digest}`)?.id, two.id);
    assert.equal(images.get(`tools/two:v2@${digest}`)?.id, two.id);
    await assert.rejects(images.pull("two:v2"), { code: "IMAGE_REFERENCE" });
  });

  test("no registry to search: only whole names", async () => {
    shortNames({ searchRegistries: [] });
    await assert.rejects(images.pull("both"), {
      code: "IMAGE_REFERENCE",
      message: /a name without a registry, and none is searched here/,
    });
  });

  test("as Docker has it, when nothing is said", async () => {
    settings = { ...settings, registries: new Map([["docker.io", { mirrors: [first.url] }]]) };
    first.image("library/x", [layerOf("hub")]);
    assert.deepEqual((await images.pull("x")).repoTags, ["docker.io/library/x:latest"]);
    for (const name of ["x", "library/x", "docker.io/x", "index.docker.io/library/x:latest"])
      assert.ok(images.get(name), name);
  });

  test("credentials that name no registry are not tried at several", async () => {
    shortNames({ searchRegistries: [first.host, second.host], mode: "permissive" });
    for (const registry of [first, second])
      registry.misbehave = ({ response }) =>
        void response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end();
    const auth = { kind: "basic", username: "me", password: "secret" } as const;
    await assert.rejects(images.pull("both", { auth }), { code: "REGISTRY_AUTH" });
    assert.deepEqual([...new Set([...first.authorizations, ...second.authorizations])], [""]);
    await assert.rejects(images.pull("both", { auth, authServer: `https://${second.host}/v2/` }));
    assert.deepEqual([...new Set(first.authorizations)], [""]);
    assert.ok(second.authorizations.some((one) => one.startsWith("Basic ")));
  });
});

test("pinned names: whole, by their beginning, by a part", async () => {
  const { id } = await images.pull(`${second.host}/team/only-second:v2`);
  const isPinned = (...pinned: string[]): boolean | undefined => {
    settings = { ...settings, pinned };
    return images.get(id)?.isPinned;
  };
  assert.equal(isPinned(), false);
  assert.equal(isPinned(`${second.host}/team/only-second:v2`), true);
  assert.equal(isPinned(`${second.host}/team/only-second`), false);
  assert.equal(isPinned(`${second.host}/team/*`), true);
  assert.equal(isPinned("*only-second*"), true);
  assert.equal(isPinned("only-second*", "*nothing*"), false);
});

test("the daemon: one image, the same id and names in every call", async () => {
  const rootfs = join(work, "rootfs/bin");
  mkdirSync(rootfs, { recursive: true });
  execFileSync("cp", ["/bin/busybox", join(rootfs, "sleep")]);
  const layer = execFileSync("tar", ["-C", join(work, "rootfs"), "-cf", "-", "bin"], { maxBuffer: 1 << 24 });
  const digest = first.image("app", [layer], "v1");
  const daemon = await startDaemon({
    root: join(work, "daemon"),
    state: join(work, "run"),
    configToml: `[images]\nunqualified_search_registries = ["${first.host}"]\npinned = ["${first.host}/app*"]\n[images.aliases]\nmine = "${first.host}/app"\n`,
  });
  try {
    using cri = new TestCri(daemon.socket, work);
    const pull = async (image: string): Promise<string> =>
      (await cri.images.callUnary("pullImage", { image: { image } })).imageRef;
    const id = await pull("mine:v1");
    assert.equal(await pull("app:v1"), id);
    assert.equal(await pull(`app@${digest}`), id);
    const expected = {
      id,
      repoTags: [`${first.host}/app:v1`],
      repoDigests: [`${first.host}/app@${digest}`],
      pinned: true,
    };
    const shown = (
      image: { id: string; repoTags: string[]; repoDigests: string[]; pinned: boolean } | undefined,
    ) =>
      image && {
        id: image.id,
        repoTags: image.repoTags,
        repoDigests: image.repoDigests,
        pinned: image.pinned,
      };
    for (const name of ["mine:v1", "app:v1", `app@${digest}`, id, `${first.host}/app:v1`]) {
      assert.deepEqual(
        shown((await cri.images.callUnary("imageStatus", { image: { image: name } })).image),
        expected,
      );
      const filter = { image: { image: name } };
      assert.deepEqual((await cri.images.callUnary("listImages", { filter })).images.map(shown), [expected]);
    }
    assert.deepEqual((await cri.images.callUnary("listImages", {})).images.map(shown), [expected]);
    const config = cri.podConfig(
      {},
      { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } },
    );
    const podId = await cri.runPod("crun", config);
    const made = await cri.create(podId, config, "mine:v1");
    const { status } = await cri.runtime.callUnary("containerStatus", { containerId: made.id });
    assert.equal(status?.imageId, id);
    assert.equal(status?.imageRef, `${first.host}/app@${digest}`);
    assert.equal(status?.image?.image, "mine:v1");
    const { containers } = await cri.runtime.callUnary("listContainers", {});
    assert.deepEqual(
      containers.map(({ imageId, imageRef }) => ({ imageId, imageRef })),
      [{ imageId: id, imageRef: `${first.host}/app@${digest}` }],
    );
    await cri.images.callUnary("removeImage", { image: { image: "mine:v1" } });
    assert.deepEqual((await cri.images.callUnary("listImages", {})).images, []);
    await cri.runtime.callUnary("removePodSandbox", { podSandboxId: podId });
  } finally {
    await daemon.stop();
  }
});
