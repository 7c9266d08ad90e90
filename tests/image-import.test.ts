/** Images from files: what skopeo and umoci write is read, what strangers write is refused, and nothing stays behind. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import type { Image, ImageService } from "../packages/tinderbox/src/image/contract.ts";
import { openImageService } from "../packages/tinderbox/src/image/image-service.ts";
import { parseLocalSource } from "../packages/tinderbox/src/image/local-source.ts";
import {
  addBlob,
  addImage,
  mediaTypes,
  ownArchitecture,
  sha256,
  writeIndex,
  writeLayout,
} from "./support/oci-layout.ts";
import { describeTree } from "./support/tree.ts";

const work = mkdtempSync("/tmp/tb-import-");
const root = join(work, "root");
let images: ImageService;

const sh = (file: string, ...args: string[]): string =>
  execFileSync(file, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

/** All files of the store that an import could leave, databases apart. */
const left = (): string[] =>
  [...readdirSync(join(root, "images/blocks")), ...readdirSync(join(root, "images/ingest"))].sort();

function importOf(text: string, name = ""): Promise<Image> {
  const source = parseLocalSource(text);
  assert.ok(source, text);
  return images.importLocal(source, name);
}

function contentOf(image: Image): string[] {
  const to = join(work, "unpacked");
  rmSync(to, { recursive: true, force: true });
  sh("unsquashfs", "-quiet", "-no-progress", "-d", to, image.blockPath);
  return describeTree(to);
}

async function removeAll(): Promise<void> {
  for (const image of images.list()) await images.remove(image.id);
  assert.deepEqual(left(), []);
}

before(async () => {
  images = await openImageService({
    root,
    logger: createLogger({ level: "error", format: "text" }),
  });
});
after(async () => {
  await images.close();
  rmSync(work, { recursive: true, force: true });
});

describe("what other tools write", () => {
  const layout = join(work, "layout");
  const source = join(work, "source");
  let expected: string[];

  before(() => {
    mkdirSync(join(source, "etc"), { recursive: true });
    mkdirSync(join(source, "bin"));
    writeFileSync(join(source, "etc/passwd"), "me:x:7:7::/:/bin/sh\n");
    writeFileSync(join(source, "bin/tool"), "x".repeat(100_000));
    chmodSync(join(source, "bin/tool"), 0o4755);
    linkSync(join(source, "bin/tool"), join(source, "bin/alias"));
    symlinkSync("../bin/tool", join(source, "etc/link"));
    expected = describeTree(source);
    sh("umoci", "init", "--layout", layout);
    sh("umoci", "new", "--image", `${layout}:v1`);
    sh("umoci", "insert", "--rootless", "--image", `${layout}:v1`, source, "/");
    sh("umoci", "config", "--image", `${layout}:v1`, "--config.user", "me", "--config.cmd", "/bin/tool");
    sh("skopeo", "--insecure-policy", "copy", `oci:${layout}:v1`, `oci-archive:${work}/oci.tar:v1`);
    sh(
      "skopeo",
      "--insecure-policy",
      "copy",
      `oci:${layout}:v1`,
      `docker-archive:${work}/docker.tar:some/name:2`,
    );
    writeFileSync(
      join(work, "docker.tar.gz"),
      gzipSync(readFileSync(join(work, "docker.tar")), { level: 1 }),
    );
  });

  const cases: readonly [string, string[]][] = [
    [`oci:${layout}:v1`, ["localhost/layout:v1"]],
    [`oci:${layout}`, ["localhost/layout:v1"]],
    [`oci-archive:${work}/oci.tar`, ["localhost/oci:v1"]],
    [`docker-archive:${work}/docker.tar`, ["docker.io/some/name:2"]],
    [`docker-archive:${work}/docker.tar.gz:some/name:2`, ["docker.io/some/name:2"]],
  ];
  for (const [text, names] of cases) {
    test(`${text.split(":")[0]} as ${text.replace(work, "")}: its files, config and name`, async () => {
      const image = await importOf(text);
      assert.deepEqual(image.repoTags, names);
      assert.deepEqual(image.config.cmd, ["/bin/tool"]);
      assert.equal(image.config.user, "me");
      assert.equal(image.passwd, "me:x:7:7::/:/bin/sh\n");
      assert.deepEqual(contentOf(image), expected);
      assert.equal(images.get(names[0] ?? "")?.id, image.id);
      // Nothing new is made for what is there already.
      assert.equal((await importOf(text)).id, image.id);
      await removeAll();
    });
  }

  test("oci, oci-archive: the same image, known by the same digests", async () => {
    const [one, two] = [
      await importOf(`oci:${layout}:v1`, "a.b/x:1"),
      await importOf(`oci-archive:${work}/oci.tar`, "a.b/x:2"),
    ];
    assert.equal(one.id, two.id);
    assert.deepEqual(two.repoTags, ["a.b/x:1", "a.b/x:2"]);
    const { digest } = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")).manifests[0];
    assert.deepEqual(two.repoDigests, [`a.b/x@${digest}`]);
    await removeAll();
  });
});

describe("layouts with more than one image", () => {
  const layout = join(work, "many");
  const tar = (name: string): Buffer => {
    const directory = mkdtempSync(join(work, "tar-"));
    writeFileSync(join(directory, name), name);
    return execFileSync("tar", ["-C", directory, "-cf", "-", name]);
  };

  test("a tag chooses; without one all tags are named", async () => {
    const [a, b] = [addImage(layout, { layers: [tar("a")] }), addImage(layout, { layers: [tar("b")] })];
    const tagged = (blob: object, tag: string): object => ({
      ...blob,
      annotations: { "org.opencontainers.image.ref.name": tag },
    });
    writeIndex(layout, [tagged(a, "a"), tagged(b, "docker.io/library/b:7")]);
    await assert.rejects(importOf(`oci:${layout}`), {
      code: "INVALID",
      message: `oci:${layout}: 2 images are in there, name one of them: it has a, docker.io/library/b:7`,
    });
    await assert.rejects(importOf(`oci:${layout}:c`), {
      code: "NOT_FOUND",
      message: /no image "c" in there: it has a, /,
    });
    assert.deepEqual((await importOf(`oci:${layout}:docker.io/library/b:7`)).repoTags, [
      "docker.io/library/b:7",
    ]);
    assert.match(contentOf(await importOf(`oci:${layout}:a`)).join(), /^a file/);
    await removeAll();
  });

  test("platforms: this machine's is taken, from index.json and from an index below it", async () => {
    const other = addImage(layout, { layers: [tar("other")], architecture: "s390x" });
    const own = addImage(layout, { layers: [tar("own")] });
    const platforms = [
      { ...other, platform: { os: "linux", architecture: "s390x" } },
      { ...own, platform: { os: "linux", architecture: ownArchitecture } },
    ];
    writeIndex(layout, platforms);
    assert.match(contentOf(await importOf(`oci:${layout}`)).join(), /^own file/);
    const index = Buffer.from(
      JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.index, manifests: platforms }),
    );
    writeIndex(layout, [addBlob(layout, mediaTypes.index, index)]);
    assert.match(contentOf(await importOf(`oci:${layout}`)).join(), /^own file/);
    const foreign = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [platforms[0]] }));
    writeIndex(layout, [addBlob(layout, mediaTypes.index, foreign)]);
    await assert.rejects(importOf(`oci:${layout}`), {
      code: "IMAGE_PLATFORM",
      message: /it is for linux\/s390x/,
    });
    await removeAll();
  });
});

describe("what strangers write", () => {
  const secret = "root:secret\n";
  const bytes = execFileSync("tar", ["-C", "/etc", "-cf", "-", "hostname"]);
  let n = 0;
  const fresh = (): string => join(work, `hostile-${n++}`);
  const blobPath = (directory: string, digest: string): string =>
    join(directory, "blobs/sha256", digest.replace("sha256:", ""));
  const tarOf = (directory: string, ...options: string[]): string => {
    sh("tar", "-C", directory, ...options, "-cf", `${directory}.tar`, ".");
    return `${directory}.tar`;
  };
  const docker = (files: Record<string, string | Uint8Array>): string => {
    const directory = fresh();
    mkdirSync(directory);
    for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
    return directory;
  };
  const config = JSON.stringify({ os: "linux", rootfs: { diff_ids: [sha256(bytes)] } });

  const cases: Record<string, () => { text: string; code: string; message: RegExp }> = {
    "no such directory": () => ({
      text: `oci:${fresh()}`,
      code: "NOT_FOUND",
      message: /^oci:.*: oci-layout is not there$/,
    }),
    "no such archive": () => ({
      text: `oci-archive:${fresh()}`,
      code: "NOT_FOUND",
      message: /is not there$/,
    }),
    "an archive that is a FIFO": () => {
      const path = fresh();
      sh("mkfifo", path);
      return { text: `docker-archive:${path}`, code: "IMAGE_MALFORMED", message: /is not a regular file$/ };
    },
    "an archive that is no tar": () => {
      const path = fresh();
      writeFileSync(path, "x".repeat(5000));
      return { text: `oci-archive:${path}`, code: "IMAGE_MALFORMED", message: /checksum/ };
    },
    "an archive that was cut": () => {
      const directory = fresh();
      writeLayout(directory, "t", { layers: [bytes] });
      const archive = tarOf(directory);
      truncateSync(archive, readFileSync(archive).length / 2);
      return { text: `oci-archive:${archive}`, code: "IMAGE_MALFORMED", message: /it ends inside/ };
    },
    "an archive of a compression that was cut": () => {
      const directory = fresh();
      writeLayout(directory, "t", { layers: [bytes] });
      const zipped = gzipSync(readFileSync(tarOf(directory)));
      writeFileSync(`${directory}.gz`, zipped.subarray(0, zipped.length - 20));
      return {
        text: `oci-archive:${directory}.gz`,
        code: "IMAGE_MALFORMED",
        message: /unexpected end of file/,
      };
    },
    "an index that is not JSON": () => {
      const directory = fresh();
      writeIndex(directory, []);
      writeFileSync(join(directory, "index.json"), "{");
      return { text: `oci:${directory}`, code: "IMAGE_MALFORMED", message: /index\.json is not JSON/ };
    },
    "an index without an image": () => {
      const directory = fresh();
      writeIndex(directory, []);
      return { text: `oci:${directory}`, code: "INVALID", message: /0 images are in there/ };
    },
    "an index that is too large": () => {
      const directory = fresh();
      writeIndex(directory, []);
      truncateSync(join(directory, "index.json"), 5 << 20);
      return {
        text: `oci:${directory}`,
        code: "IMAGE_MALFORMED",
        message: /index\.json is over 4194304 bytes/,
      };
    },
    "a digest that is a path": () => {
      const directory = fresh();
      writeIndex(directory, [
        { mediaType: mediaTypes.manifest, digest: "sha256:../../../etc/passwd", size: 1 },
      ]);
      return {
        text: `oci:${directory}`,
        code: "IMAGE_MALFORMED",
        message: /index\.json: manifests\.0\.digest: must be a digest/,
      };
    },
    "a manifest with another digest": () => {
      const directory = fresh();
      const { digest } = writeLayout(directory, "t", { layers: [bytes] });
      writeFileSync(blobPath(directory, digest), "{}");
      return {
        text: `oci:${directory}`,
        code: "IMAGE_DIGEST",
        message: /manifest sha256:\w+ has the digest/,
      };
    },
    "a layer with another digest": () => {
      const directory = fresh();
      writeLayout(directory, "t", { layers: [bytes] });
      const other = Buffer.from(bytes);
      other[600] = 0x78;
      writeFileSync(blobPath(directory, sha256(bytes)), other);
      return { text: `oci:${directory}`, code: "IMAGE_DIGEST", message: /came with the digest/ };
    },
    "a layer that is too long": () => {
      const directory = fresh();
      writeLayout(directory, "t", { layers: [bytes] });
      truncateSync(blobPath(directory, sha256(bytes)), bytes.length + 1);
      return { text: `oci:${directory}`, code: "IMAGE_DIGEST", message: /is longer than/ };
    },
    "a layer that is too short": () => {
      const directory = fresh();
      writeLayout(directory, "t", { layers: [bytes] });
      truncateSync(blobPath(directory, sha256(bytes)), 512);
      return { text: `oci:${directory}`, code: "IMAGE_DIGEST", message: /has 512 of/ };
    },
    "a layer that is a link to somewhere else": () => {
      const directory = fresh();
      writeFileSync(join(work, "secret"), secret);
      writeLayout(directory, "t", { layers: [bytes] });
      rmSync(blobPath(directory, sha256(bytes)));
      symlinkSync(join(work, "secret"), blobPath(directory, sha256(bytes)));
      return { text: `oci:${directory}`, code: "IMAGE_MALFORMED", message: /is a symbolic link/ };
    },
    "a layer that is a FIFO": () => {
      const directory = fresh();
      writeLayout(directory, "t", { layers: [bytes] });
      rmSync(blobPath(directory, sha256(bytes)));
      sh("mkfifo", blobPath(directory, sha256(bytes)));
      return { text: `oci:${directory}`, code: "IMAGE_MALFORMED", message: /is not a regular file/ };
    },
    "a layer that is missing": () => {
      const directory = fresh();
      writeLayout(directory, "t", { layers: [bytes] });
      rmSync(blobPath(directory, sha256(bytes)));
      return { text: `oci:${directory}`, code: "NOT_FOUND", message: /blobs\/sha256\/\w+ is not there/ };
    },
    "a layer that unpacks to another one": () => {
      const directory = fresh();
      writeLayout(directory, "t", { layers: [zstdCompressSync(bytes)], diffIds: [sha256(Buffer.from("x"))] });
      return { text: `oci:${directory}`, code: "IMAGE_DIGEST", message: /a layer unpacks to the digest/ };
    },
    "an image for another system": () => {
      const directory = fresh();
      const manifest = addImage(directory, { layers: [bytes], architecture: "s390x" });
      writeIndex(directory, [manifest]);
      return { text: `oci:${directory}`, code: "IMAGE_PLATFORM", message: /s390x/ };
    },
    "a docker archive without a manifest": () => ({
      text: `docker-archive:${tarOf(docker({ "x.json": "{}" }))}`,
      code: "NOT_FOUND",
      message: /"manifest\.json" is not there/,
    }),
    "a docker archive whose layer is a file of the host": () => ({
      text: `docker-archive:${tarOf(
        docker({
          "manifest.json": JSON.stringify([{ Config: "c.json", RepoTags: ["x:1"], Layers: ["/etc/passwd"] }]),
          "c.json": config,
        }),
      )}`,
      code: "NOT_FOUND",
      message: /"\/etc\/passwd" is not there/,
    }),
    "a docker archive whose layer is a link out of it": () => {
      const directory = docker({
        "manifest.json": JSON.stringify([{ Config: "c.json", RepoTags: ["x:1"], Layers: ["l.tar"] }]),
        "c.json": config,
      });
      symlinkSync("../../../../etc/passwd", join(directory, "l.tar"));
      return {
        text: `docker-archive:${tarOf(directory)}`,
        code: "NOT_FOUND",
        message: /"l\.tar" is not there/,
      };
    },
    "a docker archive whose links go round": () => {
      const directory = docker({
        "manifest.json": JSON.stringify([{ Config: "a", RepoTags: [], Layers: [] }]),
      });
      symlinkSync("b", join(directory, "a"));
      symlinkSync("a", join(directory, "b"));
      return { text: `docker-archive:${tarOf(directory)}`, code: "NOT_FOUND", message: /"a" is not there/ };
    },
    "a docker archive with a name that is none": () => ({
      text: `docker-archive:${tarOf(
        docker({ "manifest.json": JSON.stringify([{ Config: "c", RepoTags: ["../../x"], Layers: [] }]) }),
      )}`,
      code: "IMAGE_REFERENCE",
      message: /"\.\.\/\.\.\/x"/,
    }),
  };
  for (const [name, make] of Object.entries(cases)) {
    test(`refused: ${name}`, async () => {
      const { text, code, message } = make();
      await assert.rejects(importOf(text), (error: { code: string; message: string }) => {
        assert.equal(error.code, code, error.message);
        assert.match(error.message, message);
        assert.ok(error.message.startsWith(text), "the message begins with what was asked for");
        return true;
      });
      assert.deepEqual(left(), []);
      assert.deepEqual(images.list(), []);
    });
  }

  test("an archive's names lead nowhere on the host", async () => {
    const directory = docker({
      "manifest.json": JSON.stringify([{ Config: "../../c.json", RepoTags: null, Layers: ["b/../l"] }]),
      l: bytes,
    });
    writeFileSync(join(directory, "c.json"), config);
    sh(
      "tar",
      "-C",
      directory,
      "-P",
      "--transform",
      "s,^c.json,../../c.json,",
      "-cf",
      `${directory}.tar`,
      "manifest.json",
      "l",
      "c.json",
    );
    const image = await importOf(`docker-archive:${directory}.tar`);
    assert.equal(image.id, sha256(Buffer.from(config)));
    assert.equal(existsSync("/c.json"), false);
    assert.match(contentOf(image).join(), /^hostname file/);
    await removeAll();
  });

  test("without a path there is nothing to read", () => {
    const result = spawnSync(
      join(import.meta.dirname, "../bin/tinderbox"),
      ["--socket", join(work, "none"), "pull", "oci:"],
      {
        encoding: "utf8",
      },
    );
    assert.equal(result.status, 2);
    assert.match(result.stderr, /image "oci:": a path must follow oci:\nhint: write oci:PATH\[:TAG\]/);
  });
});
