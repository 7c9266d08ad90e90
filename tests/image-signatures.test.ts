/** Whose signatures count before an image does: what cosign itself signed, what others forge, and the daemon's word to a kubelet. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import type { ImageService } from "../packages/tinderbox/src/image/contract.ts";
import { openImageService } from "../packages/tinderbox/src/image/image-service.ts";
import { defaultImageSettings, type ImageSettings } from "../packages/tinderbox/src/image/image-settings.ts";
import { parseLocalSource } from "../packages/tinderbox/src/image/local-source.ts";
import {
  loadPublicKey,
  type PolicyRule,
  type SignedIdentity,
} from "../packages/tinderbox/src/image/signature-policy.ts";
import { NamespaceMode } from "../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { type PodInit, TestCri } from "./support/cri-client.ts";
import { crictlPath } from "./support/crictl.ts";
import { startDaemon, type TestDaemon } from "./support/daemon.ts";
import { addImage, mediaTypes, ownArchitecture, sha256, writeIndex } from "./support/oci-layout.ts";
import { OwnRegistry } from "./support/own-registry.ts";
import {
  type KeyPair,
  makeKey,
  payloadOf,
  putSignatures,
  type Signature,
  serveCosignImages,
  signPayload,
} from "./support/sign-image.ts";

const work = mkdtempSync("/tmp/tb-sign-");
let registry: OwnRegistry;
let keys: ReadonlyMap<string, string>;
let ours: KeyPair;
let theirs: KeyPair;
let layer: Buffer;

before(async () => {
  registry = await new OwnRegistry().start();
  keys = serveCosignImages(registry, work);
  ours = makeKey(work, "ours");
  theirs = makeKey(work, "theirs");
  mkdirSync(join(work, "rootfs/bin"), { recursive: true });
  copyFileSync("/bin/busybox", join(work, "rootfs/bin/busybox"));
  symlinkSync("busybox", join(work, "rootfs/bin/sleep"));
  layer = execFileSync("tar", ["-C", join(work, "rootfs"), "-cf", "-", "bin"], { maxBuffer: 1 << 24 });
});
after(async () => {
  await registry.stop();
  rmSync(work, { recursive: true, force: true });
});

describe("the policy of a pull", () => {
  let images: ImageService;
  let root: string;
  let settings: ImageSettings;
  let count = 0;

  const signedBy = (
    paths: readonly string[],
    signedIdentity: SignedIdentity = "matchRepository",
  ): PolicyRule => ({
    type: "sigstoreSigned",
    keys: paths.map(loadPublicKey),
    signedIdentity,
  });
  const allow = (
    scopes: Readonly<Record<string, PolicyRule>>,
    byDefault: "reject" | "insecureAcceptAnything" = "reject",
  ): void => {
    settings = {
      ...settings,
      policy: { default: { type: byDefault }, scopes: new Map(Object.entries(scopes)) },
    };
  };
  const left = (): string[] =>
    [...readdirSync(join(root, "images/blocks")), ...readdirSync(join(root, "images/ingest"))].sort();
  const refused = async (what: Promise<unknown>, why: RegExp): Promise<void> => {
    await assert.rejects(what, (error: { code: string; message: string }) => {
      assert.equal(error.code, "SIGNATURE", error.message);
      assert.match(error.message, /^SignatureValidationFailed: /);
      assert.match(error.message, why);
      return true;
    });
  };

  beforeEach(async () => {
    root = join(work, `root-${count++}`);
    registry.misbehave = undefined;
    registry.requests.length = 0;
    settings = {
      ...defaultImageSettings,
      registries: new Map([["registry.example", { mirrors: [registry.url] }]]),
    };
    images = await openImageService({
      root,
      settings: () => settings,
      logger: createLogger({ level: "error", format: "text" }),
      patience: { stallMs: 300, pauseMs: 10 },
    });
  });
  afterEach(() => images.close());

  describe("signed by cosign 2.4.3", () => {
    for (const kind of ["ECDSA P-256", "ECDSA P-384", "RSA", "Ed25519"])
      test(`${kind}: its key opens it, alone and among others; another one does not`, async () => {
        allow({ "registry.example/team": signedBy([theirs.publicPath]) });
        await refused(
          images.pull("registry.example/team/app:v1"),
          /none of 4 signatures counts: it is not by a key/,
        );
        assert.deepEqual(left(), []);
        allow({ "registry.example/team": signedBy([theirs.publicPath, keys.get(kind) ?? ""]) });
        const image = await images.pull("registry.example/team/app:v1");
        assert.deepEqual(image.repoTags, ["registry.example/team/app:v1"]);
      });

    test("an index, and a platform's manifest below one", async () => {
      allow({ "registry.example": signedBy([keys.get("ECDSA P-256") ?? ""]) });
      await images.pull("registry.example/team/multi:v1");
      await images.pull("registry.example/team/platform:v1");
      assert.equal(images.list().length, 2);
    });

    test("signed identities: the repository, or with its tag", async () => {
      const key = keys.get("ECDSA P-256") ?? "";
      allow({ "registry.example": signedBy([key], "matchRepoDigestOrExact") });
      const tagged = await images.pull("registry.example/team/tagged:v1");
      await images.pull(tagged.repoDigests[0] ?? "");
      // cosign by itself writes no tag.
      await refused(images.pull("registry.example/team/app:v1"), /it is for "registry\.example\/team\/app"/);
      allow({ "registry.example": signedBy([key]) });
      await images.pull("registry.example/team/app:v1");
    });
  });

  test("the longest scope counts, at its slashes; the default is for the rest", async () => {
    const accept: PolicyRule = { type: "insecureAcceptAnything" };
    allow({
      "registry.example": { type: "reject" },
      "registry.example/team": signedBy([theirs.publicPath]),
      "registry.example/team/app": accept,
      "registry.example/tea": accept,
    });
    await images.pull("registry.example/team/app:v1");
    await refused(images.pull("registry.example/team/multi:v1"), /none of 1 signatures/);
    registry.image("teammate/x", [layer]);
    await refused(images.pull("registry.example/teammate/x"), /the policy rejects images from there/);
    await refused(images.pull("elsewhere.example/x"), /elsewhere\.example\/x: the policy rejects/);
    await refused(
      images.pull("REGISTRY.example/teammate/x"),
      /registry\.example\/teammate\/x: the policy rejects/,
    );
    registry.image("tea/x", [layer]);
    await images.pull("registry.example/tea/x");
  });

  describe("what does not count", () => {
    const name = "registry.example/forged/app";
    let digest: string;
    beforeEach(() => {
      digest = registry.image("forged/app", [layer]);
      putSignatures(registry, "forged/app", digest, []);
      allow({ [name]: signedBy([ours.publicPath]) });
    });
    const good = (): Signature => signPayload(payloadOf(name, digest), ours);

    test("the control: signed as it should be, also among bad ones", async () => {
      putSignatures(registry, "forged/app", digest, [signPayload(payloadOf(name, digest), theirs), good()]);
      await images.pull(name);
      assert.equal(left().length, 1);
    });

    const cases: Readonly<Record<string, readonly [RegExp, () => readonly Signature[]]>> = {
      "no signature": [/wants a signature, and none is known/, () => []],
      "another's key": [/not by a key of the policy/, () => [signPayload(payloadOf(name, digest), theirs)]],
      "a good signature of another image": [
        /none is known/,
        () => [signPayload(payloadOf(name, sha256(Buffer.from("other"))), ours)],
      ],
      "a payload changed after it was signed": [
        /not by a key/,
        () => [
          {
            ...signPayload(payloadOf(name, sha256(Buffer.from("other"))), ours),
            payload: JSON.stringify(payloadOf(name, digest)),
          },
        ],
      ],
      "a good signature for another repository": [
        /it is for "registry\.example\/other\/app"/,
        () => [signPayload(payloadOf("registry.example/other/app", digest), ours)],
      ],
      "a good signature for the same path of another registry": [
        /it is for "docker\.io\/forged\/app"/,
        () => [signPayload(payloadOf("docker.io/forged/app", digest), ours)],
      ],
      "an identity that is no name": [
        /which is no image's name/,
        () => [signPayload(payloadOf("../../etc/passwd", digest), ours)],
      ],
      "a critical part that is not understood": [
        /none is known/,
        () => {
          const { critical, ...others } = payloadOf(name, digest) as { critical: object };
          return [signPayload({ ...others, critical: { ...critical, until: 5 } }, ours)];
        },
      ],
      "a signature of another type": [
        /none is known/,
        () => [signPayload(JSON.stringify(payloadOf(name, digest)).replace("container image", "x"), ours)],
      ],
      "an attestation": [
        /none is known/,
        () => [{ ...good(), mediaType: "application/vnd.dsse.envelope.v1+json" }],
      ],
      "a signature that is no base64": [/not by a key/, () => [{ ...good(), base64: "!!!" }]],
      "a signature that is too long": [/none is known/, () => [{ ...good(), base64: "A".repeat(5000) }]],
      "a payload that is too long": [
        /none is known/,
        () => [signPayload({ ...payloadOf(name, digest), more: "x".repeat(70_000) }, ours)],
      ],
      "more signatures than anybody needs": [
        /has 101 signatures, at most 100/,
        () => Array.from({ length: 101 }, (_, n) => ({ ...good(), base64: `${n}` })),
      ],
    };
    for (const [what, [why, signatures]] of Object.entries(cases))
      test(what, async () => {
        putSignatures(registry, "forged/app", digest, signatures());
        await refused(images.pull(name), why);
        assert.deepEqual(left(), []);
        assert.deepEqual(images.list(), []);
        const asked = registry.requests.filter((path) => path.includes(sha256(layer)));
        assert.deepEqual(asked, [], "not a byte of a layer is fetched before");
      });

    test("a payload that is another than its digest says", async () => {
      const signature = good();
      putSignatures(registry, "forged/app", digest, [signature]);
      registry.misbehave = (exchange) =>
        exchange.body?.toString() === signature.payload
          ? void exchange.response.end(signature.payload.replace("app", "apq"))
          : exchange.serve();
      await assert.rejects(images.pull(name));
      assert.deepEqual(left(), []);
    });

    test("a registry that cannot say whether there is one is not taken for one without", async () => {
      registry.misbehave = (exchange) =>
        exchange.path.endsWith(".sig") ? void exchange.response.writeHead(500).end() : exchange.serve();
      settings = { ...settings, registries: new Map() };
      allow({ [`${registry.host}/forged`]: signedBy([ours.publicPath]) });
      await assert.rejects(images.pull(`${registry.host}/forged/app`), { code: "REGISTRY" });
    });

    test("a tag that moves between two looks: the image that was verified is the one that is had", async () => {
      putSignatures(registry, "forged/app", digest, [good()]);
      const other = join(work, "moved");
      writeFileSync(other, "x");
      const evil = execFileSync("tar", ["-C", work, "-cf", "-", "moved"]);
      registry.misbehave = (exchange) => {
        exchange.serve();
        // Whatever is asked for next by the tag is another image.
        if (exchange.path.endsWith("/manifests/latest")) registry.image("forged/app", [evil]);
      };
      const image = await images.pull(name);
      assert.deepEqual(image.repoDigests, [`${name}@${digest}`]);
      assert.equal(registry.requests.filter((path) => path.endsWith("/manifests/latest")).length, 1);
      registry.misbehave = undefined;
      await refused(images.pull(name), /none is known/);
      assert.deepEqual(images.get(`${name}:latest`)?.id, image.id, "the good one keeps the name");
    });

    test("what is here by a name that needs no signature does not open the one that does", async () => {
      registry.image("free/app", [layer]);
      allow({
        [name]: signedBy([ours.publicPath]),
        "registry.example/free": { type: "insecureAcceptAnything" },
      });
      await images.pull("registry.example/free/app");
      await refused(images.pull(name), /none is known/);
      assert.equal(images.get(name), undefined);
      assert.equal(images.list().length, 1);
    });
  });

  test("files have no signatures: under a name that needs one they are refused", async () => {
    const layout = join(work, "layout");
    writeIndex(layout, [addImage(layout, { layers: [layer] })]);
    const source = parseLocalSource(`oci:${layout}`);
    assert.ok(source);
    allow({ "registry.example": signedBy([ours.publicPath]), localhost: { type: "insecureAcceptAnything" } });
    await assert.rejects(images.importLocal(source, "registry.example/a:1"), { code: "SIGNATURE" });
    await assert.rejects(images.importLocal(source, "quay.io/a:1"), { code: "SIGNATURE" });
    assert.deepEqual(left(), []);
    await images.importLocal(source, "");
  });

  test("containers: by the policy of now, with the signatures that came with the image, also after a restart", async () => {
    const name = "registry.example/team/app:v1";
    const byCosign = signedBy([keys.get("Ed25519") ?? ""]);
    allow({ "registry.example": byCosign });
    const { id } = await images.pull(name);
    images.checkPolicy(id, name);
    images.checkPolicy(id, id);
    assert.throws(
      () => images.checkPolicy(id, "registry.example/other:v1"),
      /SignatureValidationFailed: registry\.example\/other/,
    );
    allow({ "registry.example": signedBy([theirs.publicPath]) });
    for (const asked of [name, id]) assert.throws(() => images.checkPolicy(id, asked), { code: "SIGNATURE" });
    await images.close();
    images = await openImageService({
      root,
      settings: () => settings,
      logger: createLogger({ level: "error", format: "text" }),
    });
    allow({ "registry.example": byCosign });
    images.checkPolicy(id, name);
    // Pulled while nobody asked for a signature: none came with it.
    await images.remove(id);
    allow({}, "insecureAcceptAnything");
    await images.pull(name);
    images.checkPolicy(id, name);
    allow({ "registry.example": byCosign });
    assert.throws(() => images.checkPolicy(id, name), /none is known/);
    await images.pull(name);
    images.checkPolicy(id, name);
  });

  test("an index of which another platform is signed does not open this one", async () => {
    const mine = registry.image("mixed/app", [layer], "mine");
    const other = registry.manifest("mixed/app", { other: true }, mediaTypes.manifest, "other");
    const platform = (digest: string, architecture: string) => ({
      digest,
      size: 1,
      platform: { os: "linux", architecture },
    });
    registry.manifest(
      "mixed/app",
      { manifests: [platform(mine, ownArchitecture), platform(other, "s390x")] },
      mediaTypes.index,
    );
    putSignatures(registry, "mixed/app", other, [
      signPayload(payloadOf("registry.example/mixed/app", other), ours),
    ]);
    allow({ "registry.example": signedBy([ours.publicPath]) });
    await refused(images.pull("registry.example/mixed/app"), /none is known/);
  });
});

describe("keys", () => {
  const refusedKey = (name: string, content: string, why: RegExp): void => {
    const path = join(work, name);
    writeFileSync(path, content);
    assert.throws(
      () => loadPublicKey(path),
      (error: { code: string; message: string }) => {
        assert.equal(error.code, "CONFIG");
        assert.match(error.message, why);
        return true;
      },
    );
  };
  const openssl = (...args: string[]): string =>
    execFileSync("openssl", args, { encoding: "utf8", stdio: ["pipe", "pipe", "ignore"] });

  test("what is no public key, or too weak a one, is said", () => {
    assert.throws(() => loadPublicKey("/none.pub"), /no such file/);
    refusedKey("text", "hello", /not a public key in PEM/);
    refusedKey("private", openssl("genpkey", "-algorithm", "ed25519"), /not a public key in PEM/);
    refusedKey("broken", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", /cannot be read/);
    const weak = join(work, "weak.key");
    writeFileSync(weak, openssl("genrsa", "1024"));
    refusedKey("weak", openssl("rsa", "-in", weak, "-pubout"), /RSA \(2048 bits or more\)/);
    const odd = join(work, "odd.key");
    writeFileSync(odd, openssl("ecparam", "-name", "secp256k1", "-genkey", "-noout"));
    refusedKey("odd", openssl("ec", "-in", odd, "-pubout"), /not an ECDSA/);
  });
});

describe("the daemon", () => {
  const program = join(import.meta.dirname, "../bin/tinderbox");
  const root = join(work, "daemon");
  const state = join(work, "run");
  let daemon: TestDaemon;
  let cri: TestCri;
  let podId: string;
  let config: PodInit;
  let name: string;

  const policy = (keyPath: string): string =>
    `[images.policy."${registry.host}/prod"]\ntype = "sigstoreSigned"\nkeys = ["${keyPath}"]\n`;
  const reload = async (toml: string): Promise<void> => {
    const file = join(root, "test-config.toml");
    const [head = ""] = readFileSync(file, "utf8").split("[images");
    writeFileSync(file, `${head}${toml}`);
    const before = daemon.said().length;
    daemon.child.kill("SIGHUP");
    while (!/configuration (was not )?read again/.test(daemon.said().slice(before)))
      await once(daemon.child.stderr ?? daemon.child, "data");
  };
  /** Not at once: the registry is in this process. */
  const run = async (
    file: string,
    ...args: string[]
  ): Promise<{ code: number | null; out: string; err: string }> => {
    const child = spawn(file, args);
    const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
    return { code: child.exitCode ?? ((await once(child, "exit"))[0] as number | null), out, err };
  };

  before(async () => {
    registry.misbehave = undefined;
    const digest = registry.image("prod/app", [layer], "v1");
    name = `${registry.host}/prod/app:v1`;
    putSignatures(registry, "prod/app", digest, [
      signPayload(payloadOf(`${registry.host}/prod/app`, digest), ours),
    ]);
    registry.image("prod/unsigned", [layer], "v1", { User: "1" });
    registry.image("free/app", [layer], "v1", { User: "2" });
    daemon = await startDaemon({ root, state, configToml: policy(ours.publicPath) });
    cri = new TestCri(daemon.socket, work);
    config = cri.podConfig({}, { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } });
    podId = await cri.runPod("crun", config);
  });
  after(async () => {
    await cri.runtime.callUnary("removePodSandbox", { podSandboxId: podId });
    cri[Symbol.dispose]();
    await daemon.stop();
  });

  test("PullImage is refused with the word that the kubelet knows, and by no gRPC status that would hide it", async () => {
    const endpoint = `unix://${daemon.socket}`;
    const options = ["--runtime-endpoint", endpoint, "--image-endpoint", endpoint];
    const { code, err } = await run(crictlPath, ...options, "pull", `${registry.host}/prod/unsigned:v1`);
    assert.notEqual(code, 0);
    // As kubelet's own client, crictl takes "rpc error: code = Unknown desc = " away, and nothing else.
    assert.match(
      err,
      /msg="pulling image: SignatureValidationFailed: 127\.0\.0\.1:\d+\/prod\/unsigned: the policy wants/,
    );
    const none = await run(crictlPath, ...options, "pull", "127.0.0.1:1/x:y");
    assert.match(none.err, /msg="pulling image: RegistryUnavailable: 127\.0\.0\.1:1\/x: /);
    const byCli = await run(program, "--socket", daemon.socket, "pull", `${registry.host}/prod/unsigned:v1`);
    assert.match(byCli.err, /^tinderbox: SignatureValidationFailed: /);
    assert.deepEqual((await cri.images.callUnary("listImages", {})).images, []);
  });

  test("a container is made of what is signed; after a reload with another key of nothing", async () => {
    await cri.pull(name);
    await cri.create(podId, config, name);
    const { image } = await cri.images.callUnary("imageStatus", { image: { image: name } });
    const id = image?.id ?? "";
    // As the kubelet asks: by the id, with the user's name beside it.
    await cri.create(podId, config, name, { image: { image: id, userSpecifiedImage: name } });
    await cri.pull(`${registry.host}/free/app:v1`);
    await reload(policy(theirs.publicPath));
    for (const spec of [
      { image: name, userSpecifiedImage: name },
      { image: id, userSpecifiedImage: name },
      { image: id },
    ])
      await assert.rejects(cri.create(podId, config, name, { image: spec }), {
        code: "SIGNATURE",
        message: /^SignatureValidationFailed: .*none of 1 signatures counts: it is not by a key/,
      });
    const mounts = [{ containerPath: "/v", image: { image: name }, readonly: true }];
    await assert.rejects(cri.create(podId, config, `${registry.host}/free/app:v1`, { mounts }), {
      code: "SIGNATURE",
    });
    await cri.create(podId, config, `${registry.host}/free/app:v1`);
    await reload(policy("/none.pub"));
    assert.match(daemon.said(), /images\.policy\..*\.keys\.0: \\?"\/none\.pub\\?": no such file/);
    await assert.rejects(cri.create(podId, config, name), { code: "SIGNATURE" }, "the policy before goes on");
    await reload(policy(ours.publicPath));
    await cri.create(podId, config, name);
  });
});
