/** Layers merged: umoci is the referee for random stacks; what is hostile is refused or has no effect. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { after, beforeEach, describe, test } from "node:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { type Header, pack } from "tar-stream";
import { makeBlockImage } from "../packages/tinderbox/src/image/block-image.ts";
import { defaultMergeLimits, type MergeLimits } from "../packages/tinderbox/src/image/layer-merge.ts";
import { sha256, writeLayout } from "./support/oci-layout.ts";
import { describeTree } from "./support/tree.ts";

const work = mkdtempSync("/tmp/tb-merge-");
after(() => rmSync(work, { recursive: true, force: true }));
const block = join(work, "out/image.sqfs");
beforeEach(() => {
  rmSync(join(work, "out"), { recursive: true, force: true });
  mkdirSync(join(work, "out"));
});

type Entry = Partial<Header> & { readonly name: string; readonly content?: string };

/** A layer by tar-stream, which is not what reads it. */
async function tar(...entries: readonly Entry[]): Promise<Buffer> {
  const archive = pack();
  for (const { content, ...header } of entries)
    archive.entry({ mtime: new Date(1e12), ...header }, content ?? "");
  archive.finalize();
  return buffer(archive);
}

type Stored = Buffer | { readonly bytes: Buffer; readonly unpacked: Buffer };

async function merge(layers: readonly Stored[], limits: Partial<MergeLimits> = {}): Promise<string[]> {
  const files = layers.map((layer, n) => {
    const { bytes, unpacked } = Buffer.isBuffer(layer) ? { bytes: layer, unpacked: layer } : layer;
    const path = join(work, `layer-${n}`);
    writeFileSync(path, bytes);
    return { path, diffId: sha256(unpacked) };
  });
  await makeBlockImage(files, block, AbortSignal.timeout(60_000), { ...defaultMergeLimits, ...limits });
  const to = join(work, "tree");
  rmSync(to, { recursive: true, force: true });
  execFileSync("unsquashfs", ["-quiet", "-no-progress", "-d", to, block]);
  return describeTree(to);
}

/** What is there, by path and kind only. */
const brief = async (...layers: readonly Stored[]): Promise<string[]> =>
  (await merge(layers)).map((line) => line.split(" ").slice(0, 2).join(" "));

const file = (name: string, content = name): Entry => ({ name, content });
const dir = (name: string, mode = 0o755): Entry => ({ name: `${name}/`, type: "directory", mode });
const symlink = (name: string, linkname: string): Entry => ({ name, type: "symlink", linkname });
const link = (name: string, linkname: string): Entry => ({ name, type: "link", linkname });

async function refused(
  message: RegExp,
  layers: readonly Stored[],
  limits: Partial<MergeLimits> = {},
): Promise<void> {
  await assert.rejects(merge(layers, limits), (error: { code: string; message: string }) => {
    assert.equal(error.code, "IMAGE_MALFORMED", error.message);
    assert.match(error.message, message);
    return true;
  });
  assert.deepEqual(readdirSync(join(work, "out")), []);
}

describe("whiteouts, opaque directories, links", () => {
  test("a whiteout hides what is below, and nothing of its own layer", async () => {
    const lower = await tar(dir("d"), file("d/old"), file("gone"), file("stays"));
    for (const upper of [
      await tar(file(".wh.gone", ""), file(".wh.d", ""), dir("d"), file("d/new")),
      await tar(dir("d"), file("d/new"), file(".wh.d", ""), file(".wh.gone", "")),
      await tar(file("d/new"), file(".wh.d", ""), file(".wh.gone", "")),
    ])
      assert.deepEqual(await brief(lower, upper), ["d directory", "d/new file", "stays file"]);
  });
  test("an opaque directory shows its own layer only, wherever the mark stands", async () => {
    const lower = await tar(dir("d", 0o700), file("d/old"), dir("d/sub"), file("d/sub/old"));
    for (const upper of [
      await tar(dir("d"), file("d/.wh..wh..opq", ""), file("d/sub/new")),
      await tar(dir("d"), file("d/sub/new"), file("d/.wh..wh..opq", "")),
    ])
      assert.deepEqual(await brief(lower, upper), ["d directory", "d/sub directory", "d/sub/new file"]);
  });
  test("a whiteout of what is not there, and aufs's own files, are nothing", async () => {
    assert.deepEqual(
      await brief(
        await tar(file("a")),
        await tar(file(".wh.none", ""), file("x/.wh.none", ""), file(".wh..wh.plnk", "")),
      ),
      ["a file"],
    );
  });
  test("a hidden file lives on in a hard link to it, with its content once", async () => {
    const lines = await merge([
      await tar(file("a", "body"), link("b", "a"), link("c", "a")),
      await tar(file(".wh.a", ""), file("x/y")),
    ]);
    assert.match(lines[0] ?? "", /^b file/);
    assert.match(lines[1] ?? "", /^c file .* = b$/);
  });
  test("a hard link to a file of a lower layer, and to one that its layer replaces afterwards", async () => {
    const lines = await merge([await tar(file("a", "old")), await tar(link("b", "a"), file("a", "new"))]);
    assert.match(lines.join("\n"), /^a file 644 0:0 11507a0e2f5e\nb file 644 0:0 cba06b5736fa$/);
  });
  test("parents that are symbolic links are followed inside the image, also out of it and back", async () => {
    const usr = await tar(
      dir("usr"),
      dir("usr/lib"),
      file("usr/lib/old"),
      symlink("lib", "usr/lib"),
      symlink("up", "../../../usr"),
      symlink("abs", "/usr/lib"),
    );
    const lines = await brief(
      usr,
      await tar(file("lib/one"), file("up/lib/two"), file("abs/three"), file("lib/.wh.old", "")),
    );
    assert.deepEqual(lines, [
      "abs symlink",
      "lib symlink",
      "up symlink",
      "usr directory",
      "usr/lib directory",
      "usr/lib/one file",
      "usr/lib/three file",
      "usr/lib/two file",
    ]);
  });
  test("the last of several entries of one name counts", async () => {
    const lines = await merge([
      await tar(file("a", "1"), dir("a"), file("a/x"), file("a", "22"), symlink("s", "x"), file("s", "f")),
    ]);
    assert.deepEqual(
      lines.map((line) => line.split(" ").slice(0, 2).join(" ")),
      ["a file", "s file"],
    );
  });
  test("the root's mode and owner are the image's; times are kept", async () => {
    await merge([await tar({ name: "./", type: "directory", mode: 0o711, uid: 3, gid: 4 }, file("a"))]);
    const said = execFileSync("unsquashfs", ["-lln", "-UTC", block], { encoding: "utf8" });
    assert.match(said, /^drwx--x--x .* 2001-09-09 01:46 squashfs-root$/m);
    assert.match(said, /2001-09-09 01:46 squashfs-root\/a$/m);
    await merge([await tar(file("a"))]);
    assert.match(
      execFileSync("unsquashfs", ["-lln", block], { encoding: "utf8" }),
      /^drwxr-xr-x 0\/0 .* squashfs-root$/m,
    );
  });
  test("the same layers, the same bytes, compressed as the daemon asks", async () => {
    const layers = [await tar(dir("d"), file("d/a"), file("b")), await tar(file("d/c"))];
    await merge(layers);
    const first = execFileSync("sha256sum", [block], { encoding: "utf8" });
    assert.match(execFileSync("unsquashfs", ["-s", block], { encoding: "utf8" }), /Compression lz4/);
    await merge(layers);
    assert.equal(execFileSync("sha256sum", [block], { encoding: "utf8" }), first);
  });
});

describe("names, owners, attributes", () => {
  test("long names (pax, GNU), and bytes that are no UTF-8", async () => {
    const source = join(work, "names");
    const long = "n".repeat(255);
    const deep = Array.from({ length: 30 }, () => "d".repeat(20)).join("/");
    mkdirSync(join(source, deep), { recursive: true });
    writeFileSync(join(source, deep, long), "1");
    writeFileSync(Buffer.from(`${source}/\xff\xfe`, "latin1"), "2");
    writeFileSync(join(source, "ünï"), "3");
    const expected = describeTree(source);
    for (const format of ["gnu", "pax"]) {
      const bytes = execFileSync("tar", ["-C", source, `--format=${format}`, "-cf", "-", "."], {
        maxBuffer: 1 << 24,
      });
      assert.deepEqual(await merge([bytes]), expected, format);
    }
  });
  test("owners up to 32 bits, devices, and no whiteout of overlay's", async () => {
    const big = raw({ name: "big", uid: "\x80\0\0\0\xff\xff\xff\xfe" });
    const lines = await merge([
      Buffer.concat([big, end]),
      await tar(
        { name: "null", type: "character-device", devmajor: 1, devminor: 3 },
        { name: "disk", type: "block-device", devmajor: 8, devminor: 1 },
        { name: "pipe", type: "fifo" },
        { name: "whiteout", type: "character-device", devmajor: 0, devminor: 0 },
      ),
    ]);
    assert.match(lines.join("\n"), /^big file 644 4294967294:0 /);
    assert.deepEqual(
      lines.map((line) => line.split(" ").slice(0, 2).join(" ")),
      ["big file", "disk block", "null char", "pipe fifo"],
    );
  });
  test("extended attributes: file capabilities and users' own are kept, the host's are dropped", async () => {
    const pax = {
      "SCHILY.xattr.user.mine": "yes",
      "SCHILY.xattr.security.capability":
        "\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
      "SCHILY.xattr.trusted.overlay.opaque": "y",
      "SCHILY.xattr.trusted.overlay.redirect": "/etc",
      "SCHILY.xattr.security.selinux": "x",
      "SCHILY.xattr.system.posix_acl_access": "x",
    };
    await merge([await tar({ ...file("a"), pax }, { ...dir("d"), pax })]);
    const out = spawnSync(
      "unsquashfs",
      ["-quiet", "-no-progress", "-force", "-d", join(work, "tree"), block],
      { encoding: "utf8" },
    );
    assert.equal(out.status, 0, out.stderr);
    const list = (path: string): string =>
      execFileSync(
        "python3",
        [
          "-c",
          "import os,sys; print(sorted((n, os.getxattr(sys.argv[1], n)) for n in os.listxattr(sys.argv[1])))",
          path,
        ],
        {
          encoding: "utf8",
        },
      );
    for (const path of ["a", "d"]) {
      const said = list(join(work, "tree", path));
      assert.match(said, /'security.capability', b'\\x01\\x00\\x00\\x02\\x00 /);
      assert.doesNotMatch(said, /trusted|selinux|posix/);
    }
  });
});

/** A header of one's own, with a right checksum. */
function raw(fields: {
  name: string;
  flag?: string;
  size?: number | string;
  uid?: string;
  link?: string;
  magic?: string;
}): Buffer {
  const header = Buffer.alloc(512);
  header.write(fields.name, 0, "latin1");
  header.write("0000644\0", 100);
  header.write(fields.uid ?? "0000000\0", 108, "latin1");
  header.write("0000000\0", 116);
  header.write(
    typeof fields.size === "string" ? fields.size : `${(fields.size ?? 0).toString(8).padStart(11, "0")}\0`,
    124,
    "latin1",
  );
  header.write("00000000000\0", 136);
  header.write("        ", 148);
  header.write(fields.flag ?? "0", 156);
  header.write(fields.link ?? "", 157, "latin1");
  header.write(fields.magic ?? "ustar\x0000", 257, "latin1");
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, "0")}\0 `,
    148,
  );
  return header;
}
const padded = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 511)]);
const end = Buffer.alloc(1024);
const paxOf = (record: string): Buffer =>
  Buffer.concat([raw({ name: "p", flag: "x", size: record.length }), padded(Buffer.from(record, "latin1"))]);

describe("refused, with nothing made", () => {
  const cases: Record<string, [RegExp, () => Promise<Stored[]> | Stored[], Partial<MergeLimits>?]> = {
    "14, a path out of the image (CVE-2021-32760)": [
      /"\.\.\/x": the path leaves the image/,
      () => [Buffer.concat([raw({ name: "../x" }), end])],
    ],
    "a path out of it in the middle": [
      /the path leaves the image/,
      () => [Buffer.concat([raw({ name: "a/../../x" }), end])],
    ],
    "a hard link out of it": [
      /the path leaves the image/,
      async () => [await tar(link("a", "../../etc/passwd"))],
    ],
    "a hard link to an absolute path": [
      /hard link "a" has no target "\/etc\/passwd"/,
      async () => [await tar(link("a", "/etc/passwd"))],
    ],
    "a hard link to what is not there": [
      /hard link "a" has no target "b"/,
      async () => [await tar(link("a", "b"), file("b"))],
    ],
    "a hard link to itself": [/hard link "a" has no target "a"/, async () => [await tar(link("a", "a"))]],
    "a hard link to a directory": [
      /hard link "a" has no target "d"/,
      async () => [await tar(dir("d"), link("a", "d"))],
    ],
    "a hard link to a hidden file": [
      /hard link "b" has no target "a"/,
      async () => [await tar(file("a")), await tar(file(".wh.a", "")), await tar(link("b", "a"))],
    ],
    "a whiteout of nothing": [
      /whiteout "\.wh\.\.\." names nothing/,
      async () => [await tar(file("d/.wh...", ""))],
    ],
    "a file among the parents": [
      /"a\/b": "a" is not a directory/,
      async () => [await tar(file("a"), file("a/b"))],
    ],
    "symbolic links that go round": [
      /too many symbolic links/,
      async () => [await tar(symlink("a", "b"), symlink("b", "a"), file("a/x"))],
    ],
    "a root that is no directory": [
      /is not a directory/,
      () => [Buffer.concat([raw({ name: "./", flag: "2", link: "/etc" }), end])],
    ],
    "a name over 255 bytes": [/255 for each name/, async () => [await tar(file(`${"n".repeat(256)}`))]],
    "a path over 4096 bytes": [/at most 4096 bytes/, async () => [await tar(file(`${"n/".repeat(2100)}x`))]],
    "NUL in a name": [/no NUL/, () => [Buffer.concat([paxOf("12 path=a\0b\n"), raw({ name: "x" }), end])]],
    "a checksum that is wrong": [
      /checksum is not a number/,
      () => [Buffer.concat([Buffer.alloc(512, 0x41), end])],
    ],
    "an unknown type": [/unknown type "Z"/, () => [Buffer.concat([raw({ name: "a", flag: "Z" }), end])]],
    "an old GNU sparse file": [
      /sparse entries are not supported/,
      () => [Buffer.concat([raw({ name: "a", flag: "S", magic: "ustar  \0" }), end])],
    ],
    "12, a pax sparse file (CVE-2025-58183)": [
      /sparse entries are not supported/,
      () => [Buffer.concat([paxOf("22 GNU.sparse.major=1\n"), raw({ name: "a" }), end])],
    ],
    "a size that is negative": [
      /negative or too large/,
      () => [Buffer.concat([raw({ name: "a", size: "\xff".repeat(12) }), end])],
    ],
    "a size beyond all numbers": [
      /too large/,
      () => [Buffer.concat([raw({ name: "a", size: `\x80${"\xff".repeat(11)}` }), end])],
    ],
    "a size that is no number": [
      /is not a number/,
      () => [Buffer.concat([raw({ name: "a", size: "hello" }), end])],
    ],
    "an owner beyond 32 bits": [
      /the uid of "a" is \d+, at most 4294967294/,
      () => [Buffer.concat([raw({ name: "a", uid: "\x80\0\0\x01\0\0\0\0" }), end])],
    ],
    "the owner -1": [
      /the uid of "a" is 4294967295/,
      () => [Buffer.concat([raw({ name: "a", uid: "\x80\0\0\0\xff\xff\xff\xff" }), end])],
    ],
    "an extension header of 4 GiB": [
      /extension header/,
      () => [Buffer.concat([raw({ name: "p", flag: "x", size: 2 ** 32 }), Buffer.alloc(4096)])],
    ],
    "a long name of 2 MiB": [
      /extension header/,
      () => [Buffer.concat([raw({ name: "p", flag: "L", size: 2 << 20 }), Buffer.alloc(2 << 20)])],
    ],
    "extension headers without end": [
      /more than 8 extension headers/,
      () => [
        Buffer.concat([...Array.from({ length: 20 }, () => paxOf("9 path=a\n")), raw({ name: "a" }), end]),
      ],
    ],
    "a pax record of a wrong length": [
      /pax record has a wrong length/,
      () => [Buffer.concat([paxOf("99 path=a\n"), raw({ name: "a" }), end])],
    ],
    "a pax record without a value": [
      /pax record/,
      () => [Buffer.concat([paxOf("7 path\n"), raw({ name: "a" }), end])],
    ],
    "an archive that ends in a file": [
      /ends inside "a"/,
      () => [Buffer.concat([raw({ name: "a", size: 5000 }), Buffer.alloc(512)])],
    ],
    "an archive that ends in a header": [/ends in the middle/, () => [raw({ name: "a" }).subarray(0, 100)]],
    "an archive that ends after an extension": [
      /ends after an extension header/,
      () => [Buffer.concat([paxOf("9 path=a\n"), end])],
    ],
    "a gzip stream that is cut": [
      /unexpected end of file/,
      async () => {
        const unpacked = await tar(file("a", "x".repeat(10_000)));
        return [{ bytes: gzipSync(unpacked).subarray(0, 60), unpacked }];
      },
    ],
    "a gzip stream that is broken": [
      /incorrect|invalid/,
      async () => {
        const unpacked = await tar(file("a", "x".repeat(10_000)));
        const bytes = gzipSync(unpacked);
        bytes.fill(0xff, 20, 40);
        return [{ bytes, unpacked }];
      },
    ],
    "13, a gzip bomb (no CVE)": [
      /over the size limit/,
      () => {
        const unpacked = Buffer.concat([raw({ name: "a", size: 64 << 20 }), Buffer.alloc(64 << 20), end]);
        return [{ bytes: gzipSync(unpacked), unpacked }];
      },
      { maxBytes: 16 << 20 },
    ],
    "a zstd bomb": [
      /over the size limit/,
      () => {
        const unpacked = Buffer.concat([raw({ name: "a", size: 64 << 20 }), Buffer.alloc(64 << 20), end]);
        return [{ bytes: zstdCompressSync(unpacked), unpacked }];
      },
      { maxBytes: 16 << 20 },
    ],
    "a bomb behind the archive's end": [
      /over the size limit/,
      () => {
        const unpacked = Buffer.concat([raw({ name: "a" }), end, Buffer.alloc(64 << 20)]);
        return [{ bytes: gzipSync(unpacked), unpacked }];
      },
      { maxBytes: 16 << 20 },
    ],
    "13, too many entries (no CVE)": [
      /more than 1000 layer entries/,
      () => [Buffer.concat([...Array.from({ length: 1001 }, () => raw({ name: "a" })), end])],
      { maxEntries: 1000 },
    ],
    "too many bytes of names": [
      /names in the layers are over 4096 bytes/,
      () => [Buffer.concat([...Array.from({ length: 100 }, () => raw({ name: "a".repeat(90) })), end])],
      { maxNameBytes: 4096 },
    ],
  };
  for (const [what, [message, layers, limits]] of Object.entries(cases)) {
    test(what, async () => refused(message, await layers(), limits));
  }

  test("a layer that is not what the config says", async () => {
    await assert.rejects(merge([{ bytes: await tar(file("a")), unpacked: await tar(file("b")) }]), {
      code: "IMAGE_DIGEST",
    });
    assert.deepEqual(readdirSync(join(work, "out")), []);
  });
  test("14, absolute links and `..` in links are the container's business (CVE-2021-32760)", async () => {
    const lines = await brief(
      await tar(
        symlink("host", "/etc"),
        symlink("up", "../../.."),
        file("host/tinderbox-was-here"),
        file("up/x"),
      ),
    );
    assert.deepEqual(lines, [
      "etc directory",
      "etc/tinderbox-was-here file",
      "host symlink",
      "up symlink",
      "x file",
    ]);
    assert.equal(existsSync("/etc/tinderbox-was-here"), false);
  });
});

describe("random stacks of layers", () => {
  const part = fc.constantFrom("a", "b", "c");
  const path = fc.array(part, { minLength: 1, maxLength: 3 }).map((parts) => parts.join("/"));
  const mode = fc.constantFrom(0o755, 0o700, 0o1777);
  const entry: fc.Arbitrary<Entry> = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.tuple(path, fc.string({ maxLength: 3 })).map(([name, content]) => file(name, content)),
    },
    { weight: 4, arbitrary: fc.tuple(path, mode).map(([name, bits]) => dir(name, bits)) },
    {
      weight: 2,
      arbitrary: fc
        .tuple(path, fc.constantFrom("", "/", "../"), path)
        .map(([name, lead, to]) => symlink(name, lead + to)),
    },
    { weight: 1, arbitrary: fc.tuple(path, path).map(([name, to]) => link(name, to)) },
    {
      weight: 2,
      arbitrary: path.map((name) => file(name.replace(/[^/]+$/, ".wh.$&"), "")),
    },
    { weight: 1, arbitrary: path.map((name) => file(`${name}/.wh..wh..opq`, "")) },
  );
  const stack = fc.array(fc.array(entry, { maxLength: 7 }), { minLength: 1, maxLength: 4 });

  test("are what umoci unpacks", async () => {
    let same = 0;
    await fc.assert(
      fc.asyncProperty(stack, async (entries) => {
        const layers = await Promise.all(entries.map((layer) => tar(...layer)));
        const ours = await merge(layers).catch((error: { code: string; message: string }) => {
          assert.equal(error.code, "IMAGE_MALFORMED", error.message);
          return undefined;
        });
        const [layout, bundle] = [join(work, "layout"), join(work, "bundle")];
        for (const directory of [layout, bundle]) rmSync(directory, { recursive: true, force: true });
        writeLayout(layout, "t", { layers });
        const umoci = spawnSync("umoci", ["unpack", "--image", `${layout}:t`, bundle], { encoding: "utf8" });
        const theirs = umoci.status === 0 ? describeTree(join(bundle, "rootfs")) : undefined;
        if (ours !== undefined && theirs !== undefined) same++;
        assert.deepEqual(ours, theirs, umoci.stderr);
      }),
      { numRuns: Number(process.env["TB_RUNS"] ?? 60), seed: Number(process.env["TB_SEED"] ?? 7) },
    );
    assert.ok(same > 10, `${same} stacks could be compared`);
  });
});
