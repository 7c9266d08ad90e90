/** Every kind of layer that registries hold, each by a tool of others, and what of them shows up in the root file system. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import type { Image, ImageService } from "../packages/tinderbox/src/image/contract.ts";
import { openImageService } from "../packages/tinderbox/src/image/image-service.ts";
import { unpackZstd } from "../packages/tinderbox/src/image/zstd-frames.ts";
import { mediaTypes, ownArchitecture, sha256 } from "./support/oci-layout.ts";
import { OwnRegistry } from "./support/own-registry.ts";

const work = mkdtempSync("/tmp/tb-layers-");
let registry: OwnRegistry;
let images: ImageService;
let count = 0;
/** A small file, and one that fills several blocks of every format */
let tar: Buffer;

before(async () => {
  registry = await new OwnRegistry().start();
  const source = join(work, "source");
  mkdirSync(join(source, "etc"), { recursive: true });
  writeFileSync(join(source, "etc/small"), "small\n");
  writeFileSync(join(source, "big"), randomBytes(3 << 20).toString("hex"));
  tar = execFileSync("tar", ["-C", source, "-cf", "-", "etc", "big"], { maxBuffer: 1 << 25 });
});
after(async () => {
  await registry.stop();
  rmSync(work, { recursive: true, force: true });
});
beforeEach(async () => {
  images = await openImageService({
    root: join(work, `root-${count++}`),
    logger: createLogger({ level: "error", format: "text" }),
    patience: { stallMs: 1000, pauseMs: 10 },
  });
});
afterEach(() => images.close());

const ociLayer = "application/vnd.oci.image.layer.v1.tar";
const dockerTypes = {
  manifest: "application/vnd.docker.distribution.manifest.v2+json",
  config: "application/vnd.docker.container.image.v1+json",
  layer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
};

/** Pulls an image of one layer. */
async function pullLayer(
  layer: Buffer,
  diffId: string,
  mediaType: string,
  types: { readonly manifest: string; readonly config: string } = mediaTypes,
): Promise<Image> {
  const name = `kind/n${count++}`;
  const content = {
    architecture: ownArchitecture,
    os: "linux",
    rootfs: { type: "layers", diff_ids: [diffId] },
  };
  const config = registry.blob(name, Buffer.from(JSON.stringify(content)), types.config);
  const layers = [registry.blob(name, layer, mediaType)];
  registry.manifest(name, { schemaVersion: 2, mediaType: types.manifest, config, layers }, types.manifest);
  return images.pull(`${registry.host}/${name}`);
}

const fileOf = (image: Image, path: string): string =>
  execFileSync("unsquashfs", ["-cat", image.blockPath, path], { encoding: "utf8", maxBuffer: 1 << 25 });
/** All but directories */
const filesOf = (image: Image): string[] =>
  execFileSync("unsquashfs", ["-lc", "-d", "", image.blockPath], { encoding: "utf8" })
    .trim()
    .split("\n")
    .sort();

const packed = (file: string, ...args: string[]): Buffer =>
  execFileSync(file, args, { input: tar, maxBuffer: 1 << 25 });
const skippable = (size: number): Buffer => {
  const frame = Buffer.alloc(8 + size, 0x7a);
  frame.writeUInt32LE(0x184d2a55, 0);
  frame.writeUInt32LE(size, 4);
  return frame;
};

describe("compressions", () => {
  const kinds: Readonly<Record<string, readonly [string, () => Buffer]>> = {
    none: [ociLayer, () => tar],
    gzip: [`${ociLayer}+gzip`, () => packed("gzip", "-1")],
    "gzip of several members": [`${ociLayer}+gzip`, () => Buffer.concat(members())],
    zstd: [`${ociLayer}+zstd`, () => packed("zstd", "-1")],
    "zstd with a checksum and a long window": [
      `${ociLayer}+zstd`,
      () => packed("zstd", "--check", "--long=24", "-3"),
    ],
    "zstd of pzstd's several frames": [`${ociLayer}+zstd`, () => packed("pzstd", "-p", "4", "-1")],
    "zstd with skippable frames before, between and after": [
      `${ociLayer}+zstd`,
      () => Buffer.concat([skippable(3), ...frames().flatMap((frame) => [frame, skippable(70_000)])]),
    ],
    "gzip that calls itself none": [ociLayer, () => packed("gzip", "-1")],
  };
  const halves = (): Buffer[] => [tar.subarray(0, 100_000), tar.subarray(100_000)];
  const members = (): Buffer[] =>
    halves().map((input) => execFileSync("gzip", ["-1"], { input, maxBuffer: 1 << 25 }));
  const frames = (): Buffer[] =>
    halves().map((input) => execFileSync("zstd", ["-1"], { input, maxBuffer: 1 << 25 }));
  for (const [what, [mediaType, make]] of Object.entries(kinds))
    test(what, async () => {
      const image = await pullLayer(make(), sha256(tar), mediaType);
      assert.deepEqual(filesOf(image), ["/big", "/etc/small"]);
      assert.equal(fileOf(image, "etc/small"), "small\n");
      assert.equal(fileOf(image, "big"), readFileSync(join(work, "source/big"), "utf8"));
    });

  test("xz: said to be no tar", async () => {
    await assert.rejects(pullLayer(packed("xz", "-0"), sha256(tar), `${ociLayer}+xz`), {
      code: "IMAGE_MALFORMED",
      message: /^layer sha256:\w+: /,
    });
  });
});

describe("zstd that is not whole", () => {
  const unpack = (...parts: Buffer[]): Promise<Buffer> =>
    buffer(Readable.from(unpackZstd(Readable.from(parts))));
  const frame = execFileSync("zstd", ["-1"], { input: randomBytes(300_000) });
  const small = execFileSync("zstd", ["-1", "--check"], { input: "hello" });

  test("any cut is found, wherever the pieces end", async () => {
    for (const whole of [frame, small])
      for (const at of [1, 3, 5, 6, 9, 12, whole.length - 1])
        await assert.rejects(
          unpack(whole.subarray(0, Math.min(2, at)), whole.subarray(Math.min(2, at), at)),
          {
            code: "IMAGE_MALFORMED",
            message: "zstd: it ends inside a frame",
          },
        );
    const bytes = [...small].map((byte) => Buffer.of(byte));
    assert.equal((await unpack(...bytes, ...bytes)).toString(), "hellohello");
  });

  test("what follows must be a frame; a checksum must be right; a reserved block is refused", async () => {
    await assert.rejects(unpack(small, Buffer.from("rubbish")), {
      message: "zstd: something that is no frame",
    });
    const wrong = Buffer.from(small);
    wrong.writeUInt8(wrong.readUInt8(wrong.length - 1) ^ 1, wrong.length - 1);
    await assert.rejects(unpack(wrong), { code: /ZSTD_error_checksum_wrong/ });
    const reserved = Buffer.concat([small.subarray(0, 6), Buffer.of(0xff, 0xff, 0xff), Buffer.alloc(100)]);
    await assert.rejects(unpack(reserved), {
      code: "IMAGE_MALFORMED",
      message: "zstd: a block that cannot be",
    });
  });

  test("a frame of little that becomes much is unpacked as it is read", async () => {
    const bomb = execFileSync("sh", ["-c", "head -c 200000000 /dev/zero | zstd -1"], { maxBuffer: 1 << 25 });
    assert.ok(bomb.length < 64 << 10);
    let size = 0;
    for await (const part of unpackZstd(Readable.from([bomb]))) {
      size += part.length;
      assert.ok(part.length <= 1 << 20);
    }
    assert.equal(size, 200_000_000);
  });
});

describe("layers for lazy pulling, as stargz-snapshotter 0.16.3 makes them, are layers like others", () => {
  const layers: Record<string, { base64: string; diffId: string }> = JSON.parse(
    readFileSync(join(import.meta.dirname, "support/chunked-layers.json"), "utf8"),
  );
  const own: Readonly<Record<string, readonly string[]>> = {
    // As containerd and CRI-O do when they do not pull lazily: what the layer has beside the files is in it.
    eStargz: ["/.no.prefetch.landmark", "/stargz.index.json"],
    "eStargz with a landmark": ["/.prefetch.landmark", "/stargz.index.json"],
    "zstd:chunked": ["/.no.prefetch.landmark"],
  };
  for (const [what, marks] of Object.entries(own))
    test(what, async () => {
      const { base64, diffId } = layers[what] ?? { base64: "", diffId: "" };
      const mediaType = what.startsWith("zstd") ? `${ociLayer}+zstd` : `${ociLayer}+gzip`;
      const image = await pullLayer(Buffer.from(base64, "base64"), diffId, mediaType);
      assert.deepEqual(filesOf(image), [...marks, "/dir/first", "/dir/second", "/third"].sort());
      assert.equal(fileOf(image, "third"), "third\n");
      assert.equal(fileOf(image, "dir/second"), "second ".repeat(4000));
    });
});

test("Docker's schema 2, alone and in a manifest list", async () => {
  const layer = packed("gzip", "-1");
  const image = await pullLayer(layer, sha256(tar), dockerTypes.layer, dockerTypes);
  assert.equal(fileOf(image, "etc/small"), "small\n");
  const [name = ""] = image.repoDigests[0]?.split("@") ?? [];
  const repository = name.slice(registry.host.length + 1);
  const digest = image.repoDigests[0]?.split("@")[1];
  registry.manifest(
    repository,
    {
      schemaVersion: 2,
      manifests: [{ digest, size: 1, platform: { os: "linux", architecture: ownArchitecture } }],
    },
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "list",
  );
  const listed = await images.pull(`${name}:list`);
  assert.equal(listed.id, image.id);
  assert.equal(listed.repoDigests.length, 2, "known by the list's digest too");
});
