/** The store on disk: removed by many at once, damaged, and found again. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import type { Image, ImageService } from "../packages/tinderbox/src/image/contract.ts";
import { openImageService } from "../packages/tinderbox/src/image/image-service.ts";
import { OwnRegistry } from "./support/own-registry.ts";

const work = mkdtempSync("/tmp/tb-store-");
let registry: OwnRegistry;
let images: ImageService;
let root: string;
let count = 0;

const open = (): Promise<ImageService> =>
  openImageService({
    root,
    logger: createLogger({ level: "error", format: "text" }),
    patience: { stallMs: 1000, pauseMs: 10 },
  });
const reopen = async (): Promise<void> => {
  await images.close();
  images = await open();
};
const blocks = (): string[] => readdirSync(join(root, "images/blocks"));
const pull = (n = 0): Promise<Image> => images.pull(`${registry.host}/app${n}`);

before(async () => {
  registry = await new OwnRegistry().start();
  for (let n = 0; n < 5; n++) {
    const directory = join(work, `layer${n}`);
    mkdirSync(directory);
    writeFileSync(join(directory, "file"), `${n}`.repeat(100_000));
    registry.image(`app${n}`, [execFileSync("tar", ["-C", directory, "-cf", "-", "file"])]);
  }
});
after(async () => {
  await registry.stop();
  rmSync(work, { recursive: true, force: true });
});
beforeEach(async () => {
  root = join(work, `root-${count++}`);
  images = await open();
});
afterEach(() => images.close());

describe("removed by many at once", () => {
  test("five times the same image, by all its names", async () => {
    const { id, repoTags, repoDigests } = await pull();
    const names = [id, id.slice(7), ...repoTags, ...repoDigests, `${registry.host}/app0`];
    await Promise.all(names.map((name) => images.remove(name)));
    assert.deepEqual(images.list(), []);
    assert.deepEqual(blocks(), []);
  });

  test("five images, while one of them is pulled again", async () => {
    const all = await Promise.all([0, 1, 2, 3, 4].map(pull));
    const removed = all.map(({ id }) => images.remove(id));
    const again = pull(3);
    assert.equal(images.list().length, 0, "gone at once");
    await Promise.all(removed);
    const { id, blockPath } = await again;
    assert.deepEqual(
      images.list().map((image) => image.id),
      [id],
    );
    assert.ok(statSync(blockPath).size > 0);
    assert.equal(blocks().length, 1);
  });

  test("one that a container has is not listed any more, and its file goes with the container", async () => {
    const { id } = await pull();
    images.hold(id, "container");
    await images.remove(id);
    assert.deepEqual(images.list(), []);
    assert.equal(blocks().length, 1);
    await images.release(id, "container");
    assert.deepEqual(blocks(), []);
  });
});

describe("damage", () => {
  const flipStart = (path: string): void => {
    const file = openSync(path, "r+");
    writeSync(file, Buffer.alloc(96), 0, 96, 0);
    closeSync(file);
  };
  const kinds: Readonly<Record<string, (path: string) => void>> = {
    "cut short": (path) => truncateSync(path, statSync(path).size - 1),
    emptied: (path) => truncateSync(path, 0),
    "with another beginning": flipStart,
    gone: (path) => rmSync(path),
  };
  for (const [what, damage] of Object.entries(kinds))
    test(`an image's file ${what}: not listed after a restart, and pulled again`, async () => {
      const image = await pull();
      const whole = readFileSync(image.blockPath);
      await reopen();
      assert.equal(images.list().length, 1, "the control");
      damage(image.blockPath);
      await reopen();
      assert.deepEqual(images.list(), []);
      assert.deepEqual(blocks(), []);
      assert.equal((await pull()).id, image.id);
      assert.deepEqual(readFileSync(image.blockPath), whole);
    });

  test("found while the daemon runs: a pull mends it, a container does not get it", async () => {
    const image = await pull();
    truncateSync(image.blockPath, 1000);
    assert.equal((await pull()).sizeBytes, statSync(image.blockPath).size);
    flipStart(image.blockPath);
    assert.throws(() => images.hold(image.id, "container"), {
      code: "NOT_FOUND",
      message: /its file is damaged/,
    });
    assert.equal(images.get(image.id), undefined, "so that a kubelet pulls it");
    assert.deepEqual(blocks(), []);
    await pull();
    images.hold(image.id, "container");
  });

  test("of an image that a container has: the container keeps its file, new ones get a whole one", async () => {
    const image = await pull();
    images.hold(image.id, "old");
    const kept = openSync(image.blockPath, "r");
    flipStart(image.blockPath);
    await reopen();
    assert.deepEqual(images.list(), []);
    assert.equal(blocks().length, 1);
    const again = await pull();
    images.hold(again.id, "new");
    assert.notEqual(statSync(again.blockPath).ino, statSync(`/proc/self/fd/${kept}`).ino);
    closeSync(kept);
    await images.remove(again.id);
    await images.release(again.id, "old");
    assert.equal(blocks().length, 1);
    await images.release(again.id, "new");
    assert.deepEqual(blocks(), []);
  });

  test("a database that is none any more is put aside, and the daemon lives", async () => {
    await pull();
    await images.close();
    const path = join(root, "images/images.db");
    writeFileSync(path, "this is no database, and it is longer than a header of one has to be".repeat(100));
    images = await open();
    assert.deepEqual(images.list(), []);
    assert.deepEqual(blocks(), []);
    assert.match(readFileSync(`${path}.damaged`, "utf8"), /^this is no database/);
    await pull();
    await reopen();
    assert.equal(images.list().length, 1);
  });

  test("a database with a page overwritten: the same", async () => {
    await pull();
    await images.close();
    const path = join(root, "images/images.db");
    const file = openSync(path, "r+");
    writeSync(file, Buffer.alloc(2048, 0xff), 0, 2048, 4096);
    closeSync(file);
    images = await open();
    await pull();
    assert.equal(images.list().length, 1);
  });
});

test("usage is what the directory takes", async () => {
  const before = await images.usage();
  const { blockPath } = await pull();
  const { usedBytes, inodesUsed, mountpoint } = await images.usage();
  assert.equal(mountpoint, join(root, "images"));
  const [du = ""] = execFileSync("du", ["-s", "-B1", mountpoint], { encoding: "utf8" }).split("\t");
  assert.equal(usedBytes, Number(du));
  assert.equal(inodesUsed, before.inodesUsed + 1);
  assert.ok(usedBytes - before.usedBytes >= statSync(blockPath).blocks * 512);
});
