/** Sigstore bundles as signatures of images: what cosign 3 itself signed, what others forge, and what registries answer. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import type { ImageService } from "../packages/tinderbox/src/image/contract.ts";
import { openImageService } from "../packages/tinderbox/src/image/image-service.ts";
import { defaultImageSettings, type ImageSettings } from "../packages/tinderbox/src/image/image-settings.ts";
import { loadPublicKey, type SignedIdentity } from "../packages/tinderbox/src/image/signature-policy.ts";
import { mediaTypes, sha256 } from "./support/oci-layout.ts";
import { OwnRegistry } from "./support/own-registry.ts";
import {
  bundleType,
  encodedOf,
  putBundle,
  type Referrer,
  signBundle,
  statementOf,
} from "./support/sign-bundle.ts";
import {
  type KeyPair,
  makeKey,
  payloadOf,
  putSignatures,
  serveCosignImages,
  signPayload,
} from "./support/sign-image.ts";

const work = mkdtempSync("/tmp/tb-bundle-");
const layer = Buffer.alloc(1024);
let ours: KeyPair;
let theirs: KeyPair;
let registry: OwnRegistry;
let keys: ReadonlyMap<string, string>;
let images: ImageService;
let settings: ImageSettings;
let root: string;
let count = 0;

const open = (): Promise<ImageService> =>
  openImageService({
    root,
    settings: () => settings,
    logger: createLogger({ level: "error", format: "text" }),
    patience: { stallMs: 300, pauseMs: 10 },
  });
const wantKeys = (paths: readonly string[], signedIdentity: SignedIdentity = "matchDigest"): void => {
  const rule = { type: "sigstoreSigned", keys: paths.map(loadPublicKey), signedIdentity } as const;
  settings = {
    ...settings,
    policy: { default: { type: "reject" }, scopes: new Map([[registry.host, rule]]) },
  };
};
const refused = async (what: Promise<unknown>, why: RegExp): Promise<void> => {
  await assert.rejects(what, (error: { code: string; message: string }) => {
    assert.equal(error.code, "SIGNATURE", error.message);
    assert.match(error.message, /^SignatureValidationFailed: /);
    assert.match(error.message, why);
    return true;
  });
};
const left = (): string[] => ["blocks", "ingest"].flatMap((dir) => readdirSync(join(root, "images", dir)));
const index = (manifests: readonly object[]): object => ({
  schemaVersion: 2,
  mediaType: mediaTypes.index,
  manifests,
});

before(() => {
  ours = makeKey(work, "ours");
  theirs = makeKey(work, "theirs");
});
after(() => rmSync(work, { recursive: true, force: true }));
beforeEach(async () => {
  root = join(work, `root-${count++}`);
  mkdirSync(root);
  registry = await new OwnRegistry().start();
  keys = serveCosignImages(registry, root, "cosign3-images.json");
  settings = defaultImageSettings;
  images = await open();
});
afterEach(async () => {
  await images.close();
  await registry.stop();
});

describe("signed by cosign 3.1.3, in a registry without the referrers API", () => {
  const app = "sha256:4416f18408a62bc347f6c14d8ffcbae35ed3d18b02dbcafeeee0f71b5497f37b";

  for (const kind of ["ECDSA P-256", "ECDSA P-384", "RSA"])
    test(`${kind}: its key opens it, alone and among others; another one does not`, async () => {
      const name = `${registry.host}/team3/app:v1`;
      wantKeys([theirs.publicPath]);
      await refused(images.pull(name), /none of 4 signatures counts: it is not by a key/);
      assert.deepEqual(left(), []);
      wantKeys([theirs.publicPath, keys.get(kind) ?? ""]);
      const image = await images.pull(name);
      assert.deepEqual(image.repoDigests, [`${registry.host}/team3/app@${app}`]);
    });

  test("with an Ed25519 key it signs by Ed25519ph, which does not count", async () => {
    wantKeys([keys.get("Ed25519") ?? ""]);
    await refused(images.pull(`${registry.host}/team3/app:v1`), /none of 4 signatures counts/);
  });

  test("an index, and a platform's manifest below one", async () => {
    wantKeys([keys.get("ECDSA P-256") ?? ""]);
    await images.pull(`${registry.host}/team3/multi:v1`);
    await images.pull(`${registry.host}/team3/platform:v1`);
    assert.equal(images.list().length, 2);
  });

  test("an attestation by the same key is no signature", async () => {
    const attestation = "sha256:0bd9b5d921ba2ac29cc144ff51b84f7bc84b3b301562d58a4072393677524a91";
    const multi = "sha256:e8dafae194c706a8a0bcd0201e0486e97a20162d9b7e3da21c855b9bd1f887e2";
    const list = index([
      { mediaType: mediaTypes.manifest, digest: attestation, size: 881, artifactType: bundleType },
    ]);
    registry.manifest("team3/multi", list, mediaTypes.index, multi.replace(":", "-"));
    wantKeys([keys.get("ECDSA P-256") ?? ""]);
    await refused(images.pull(`${registry.host}/team3/multi:v1`), /none is known/);
    const read =
      "/v2/team3/multi/blobs/sha256:a02de1bc285647b375b2cca1ae7a407d3585482e2536605611dbbd652d77a5f0";
    assert.ok(registry.requests.includes(read));
  });

  for (const identity of ["matchRepository", "matchRepoDigestOrExact"] as const)
    test(`it names no repository: with ${identity} it is not even asked for`, async () => {
      wantKeys([keys.get("ECDSA P-256") ?? ""], identity);
      await assert.rejects(images.pull(`${registry.host}/team3/app:v1`), {
        code: "SIGNATURE",
        message: /none is known/,
        hint: /bundles, as cosign 3 makes them, name no repository: they need signed_identity = "matchDigest"/,
      });
      assert.deepEqual(registry.requests, [
        "/v2/team3/app/manifests/v1",
        `/v2/team3/app/manifests/${app.replace(":", "-")}.sig`,
      ]);
    });

  test("containers: by the policy of now, also after a restart", async () => {
    const name = `${registry.host}/team3/app:v1`;
    wantKeys([keys.get("RSA") ?? ""]);
    const { id } = await images.pull(name);
    await images.close();
    images = await open();
    images.checkPolicy(id, name);
    wantKeys([keys.get("RSA") ?? ""], "matchRepository");
    assert.throws(() => images.checkPolicy(id, name), /none of 1 signatures counts: it names no repository/);
    wantKeys([theirs.publicPath]);
    assert.throws(() => images.checkPolicy(id, name), /it is not by a key/);
  });
});

describe("in a registry with the referrers API", () => {
  let name: string;
  let digest: string;
  beforeEach(() => {
    digest = registry.image("team/app", [layer]);
    name = `${registry.host}/team/app`;
    wantKeys([ours.publicPath]);
  });
  const good = () => signBundle(statementOf(digest), ours);
  const refer = (...bundles: readonly object[]): readonly Referrer[] => {
    const list = bundles.map((bundle) => putBundle(registry, "team/app", bundle));
    registry.referrers("team/app", digest, index(list));
    return list;
  };

  test("the control: also among bad ones and other things; each is asked for once, and no tag", async () => {
    const [bad, ok] = refer(signBundle(statementOf(digest), theirs), good());
    const other = { mediaType: mediaTypes.manifest, digest: sha256(Buffer.from("sbom")), size: 5 };
    const attested = { ...other, artifactType: bundleType };
    const annotations = { "dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1" };
    const gone = { ...attested, digest: sha256(Buffer.from("gone")) };
    const list = [
      { ...other, artifactType: "text/spdx" },
      { ...attested, annotations },
      gone,
      bad ?? {},
      ok ?? {},
    ];
    registry.referrers("team/app", digest, index(list));
    await images.pull(name);
    const asked = registry.requests.filter((path) => !path.includes("/blobs/"));
    assert.deepEqual(asked, [
      "/v2/team/app/manifests/latest",
      `/v2/team/app/manifests/${digest.replace(":", "-")}.sig`,
      `/v2/team/app/referrers/${digest}`,
      ...[gone, bad, ok].map((one) => `/v2/team/app/manifests/${one?.digest}`),
    ]);
  });

  test("a signature at cosign 2's tag that counts is enough", async () => {
    refer(good());
    putSignatures(registry, "team/app", digest, [signPayload(payloadOf("other.example/x", digest), ours)]);
    await images.pull(name);
    assert.deepEqual(
      registry.requests.filter((path) => path.includes("/referrers/")),
      [],
    );
  });

  test("one there that does not count does not hide a bundle", async () => {
    refer(good());
    putSignatures(registry, "team/app", digest, [signPayload(payloadOf(name, digest), theirs)]);
    await images.pull(name);
  });

  test("by an Ed25519 key, without the hash before it", async () => {
    const key = { privatePath: join(root, "ed.key"), publicPath: join(root, "ed.pub") };
    execFileSync("openssl", ["genpkey", "-algorithm", "ed25519", "-out", key.privatePath]);
    execFileSync("openssl", ["pkey", "-in", key.privatePath, "-pubout", "-out", key.publicPath]);
    const { dsseEnvelope, ...others } = good();
    const encoded = join(root, "encoded");
    writeFileSync(encoded, encodedOf(Buffer.from(dsseEnvelope.payload, "base64")));
    const sign = ["pkeyutl", "-sign", "-rawin", "-inkey", key.privatePath, "-in", encoded];
    const sig = execFileSync("openssl", sign).toString("base64");
    refer({ ...others, dsseEnvelope: { ...dsseEnvelope, signatures: [{ sig }] } });
    await refused(images.pull(name), /not by a key/);
    wantKeys([key.publicPath]);
    await images.pull(name);
  });

  const cases: Readonly<Record<string, readonly [RegExp, () => readonly object[]]>> = {
    "no bundle": [/none is known/, () => []],
    "another's key": [/not by a key of the policy/, () => [signBundle(statementOf(digest), theirs)]],
    "a good signature of another image": [
      /none is known/,
      () => [signBundle(statementOf(sha256(Buffer.from("other"))), ours)],
    ],
    "a payload changed after it was signed": [
      /not by a key/,
      () => {
        const { dsseEnvelope, ...others } = signBundle(statementOf(sha256(Buffer.from("other"))), ours);
        const payload = Buffer.from(JSON.stringify(statementOf(digest))).toString("base64");
        return [{ ...others, dsseEnvelope: { ...dsseEnvelope, payload } }];
      },
    ],
    "a certificate in place of a key": [
      /none is known/,
      () => [{ ...good(), verificationMaterial: { certificate: { rawBytes: "AAAA" } } }],
    ],
    "a chain of certificates beside a key": [
      /none is known/,
      () => [
        { ...good(), verificationMaterial: { publicKey: {}, x509CertificateChain: { certificates: [] } } },
      ],
    ],
    "a certificate beside a key": [
      /none is known/,
      () => [{ ...good(), verificationMaterial: { publicKey: {}, certificate: { rawBytes: "AAAA" } } }],
    ],
    "neither key nor certificate": [/none is known/, () => [{ ...good(), verificationMaterial: {} }]],
    "a message's signature": [
      /none is known/,
      () => {
        const { dsseEnvelope, ...others } = good();
        const [{ sig: signature } = { sig: "" }] = dsseEnvelope.signatures;
        return [{ ...others, messageSignature: { messageDigest: { algorithm: "SHA2_256" }, signature } }];
      },
    ],
    "a statement of another predicate": [
      /none is known/,
      () => [signBundle(statementOf(digest, "https://slsa.dev/provenance/v1"), ours)],
    ],
    "an envelope of another type": [
      /none is known/,
      () => [signBundle(statementOf(digest), ours, "text/plain")],
    ],
    "a statement of another version": [
      /none is known/,
      () => [signBundle({ ...statementOf(digest), _type: "https://in-toto.io/Statement/v2" }, ours)],
    ],
    "something before the statement": [
      /none is known/,
      () => [signBundle(Buffer.from(`x${JSON.stringify(statementOf(digest))}`), ours)],
    ],
    "a bundle of another version": [
      /none is known/,
      () => [{ ...good(), mediaType: "application/vnd.dev.sigstore.bundle.v0.4+json" }],
    ],
    "no statement": [/none is known/, () => [signBundle(payloadOf(name, digest), ours)]],
    "an envelope of two signatures": [
      /none is known/,
      () => {
        const { dsseEnvelope, ...others } = good();
        const [signature] = dsseEnvelope.signatures;
        return [{ ...others, dsseEnvelope: { ...dsseEnvelope, signatures: [signature, signature] } }];
      },
    ],
    "bytes that are no UTF-8": [
      /none is known/,
      () => {
        const text = JSON.stringify({ ...statementOf(digest), more: "#" });
        return [
          signBundle(Buffer.from(Buffer.from(text).map((byte) => (byte === 0x23 ? 0xff : byte))), ours),
        ];
      },
    ],
    "a bundle that is too long": [/none is known/, () => [{ ...good(), more: "x".repeat(300_000) }]],
    "a signature that is too long": [
      /none is known/,
      () => {
        const { dsseEnvelope, ...others } = good();
        return [{ ...others, dsseEnvelope: { ...dsseEnvelope, signatures: [{ sig: "A".repeat(5000) }] } }];
      },
    ],
    "more bundles than anybody needs": [
      /has 51 sigstore bundles, at most 50/,
      () => Array.from({ length: 51 }, (_, n) => ({ ...good(), n })),
    ],
  };
  for (const [what, [why, bundles]] of Object.entries(cases))
    test(what, async () => {
      refer(...bundles());
      await refused(images.pull(name), why);
      assert.deepEqual(left(), []);
      assert.deepEqual(images.list(), []);
      const asked = registry.requests.filter((path) => path.includes(sha256(layer)));
      assert.deepEqual(asked, [], "not a byte of a layer is fetched before");
    });

  test("a referrer's manifest that is too long is not asked for, nor counted when it is longer than it says", async () => {
    const [one] = refer(good());
    registry.referrers("team/app", digest, index([{ ...one, size: 70_000 }]));
    await refused(images.pull(name), /none is known/);
    assert.ok(!registry.requests.some((path) => path.endsWith(one?.digest ?? "-")));
    const blob = registry.blob("team/app", Buffer.from(JSON.stringify(good())), bundleType);
    const long = { schemaVersion: 2, layers: [blob], more: "x".repeat(70_000) };
    const longer = registry.manifest("team/app", long, mediaTypes.manifest, "long");
    registry.referrers("team/app", digest, index([{ ...one, digest: longer }]));
    await refused(images.pull(name), /none is known/);
    assert.ok(registry.requests.some((path) => path.endsWith(longer)));
    assert.ok(!registry.requests.some((path) => path.endsWith(blob.digest)));
  });

  test("bytes other than the digest says: of the bundle, of its manifest", async () => {
    const [one] = refer(good());
    for (const part of ["/blobs/", `/manifests/${one?.digest}`]) {
      registry.misbehave = (exchange) => {
        const text = exchange.body?.toString() ?? "";
        if (!exchange.path.includes(part) || !text.includes("sigstore.bundle")) return exchange.serve();
        exchange.response.end(text.replace("sigstore", "sigstorf"));
      };
      await assert.rejects(images.pull(name), { code: "IMAGE_DIGEST" });
      assert.deepEqual(left(), []);
    }
  });

  test("a list that has no end is cut", async () => {
    registry.referrers("team/app", digest, { ...index([]), more: "x".repeat(5 << 20) });
    await assert.rejects(images.pull(name), { code: "IMAGE_MALFORMED", message: /is over 4194304 bytes/ });
  });

  for (const [status, code] of [
    [500, "REGISTRY"],
    [400, "REGISTRY"],
    [403, "REGISTRY_AUTH"],
  ] as const)
    test(`a registry that answers ${status} is not taken for one without a signature`, async () => {
      for (const part of ["/referrers/", "/manifests/sha256-"]) {
        registry.misbehave = (exchange) =>
          exchange.path.includes(part) && !exchange.path.endsWith(".sig")
            ? void exchange.response.writeHead(status).end()
            : exchange.serve();
        await assert.rejects(images.pull(name), { code });
      }
    });
});
