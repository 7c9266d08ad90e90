/** `tinderbox guest build`: the same input gives the same bytes, wherever, whenever and by whomever it is run. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { writeLayout } from "./support/oci-layout.ts";

const program = join(import.meta.dirname, "../bin/tinderbox");
const work = mkdtempSync("/tmp/tb-guest-");
after(() => rmSync(work, { recursive: true, force: true }));

type Built = Readonly<Record<string, unknown>>;

/** Builds into `output` with a file mode mask of its caller's; what --json says. */
function build(output: string, umask: string, ...args: string[]): { built: Built; said: string } {
  const result = spawnSync(
    "sh",
    [
      "-c",
      `umask ${umask} && exec "$@"`,
      "sh",
      program,
      "--json",
      "guest",
      "build",
      "--output",
      output,
      ...args,
    ],
    { encoding: "utf8", timeout: 240_000 },
  );
  assert.equal(result.status, 0, result.stderr);
  return { built: JSON.parse(result.stdout), said: result.stderr };
}

/** File name to digest, of all files that were made. */
const digests = (built: Built): Record<string, string> =>
  Object.fromEntries(
    Object.values(built)
      .filter((value): value is string => typeof value === "string" && value.startsWith(work))
      .map((path) => [basename(path), createHash("sha256").update(readFileSync(path)).digest("hex")]),
  );

describe("the same input, the same bytes", () => {
  const image = join(work, "layout");
  before(() => {
    const source = join(work, "source");
    for (const name of ["etc", "bin"]) mkdirSync(join(source, name), { recursive: true });
    writeFileSync(join(source, "etc/hostname"), "guest\n");
    copyFileSync("/bin/busybox", join(source, "bin/busybox"));
    chmodSync(join(source, "bin/busybox"), 0o4711);
    utimesSync(join(source, "etc/hostname"), 1e9, 1e9);
    writeLayout(image, "v1", {
      layers: [execFileSync("tar", ["-C", source, "-cf", "-", "."], { maxBuffer: 1 << 24 })],
    });
  });

  test("kernel, initramfs and a busybox root, in two directories and by two masks", () => {
    const one = build(join(work, "one"), "022", "--rootfs", "busybox");
    const two = build(join(work, "two"), "077", "--rootfs", "busybox");
    assert.deepEqual(Object.keys(digests(one.built)).toSorted(), [
      "initramfs-plain.img",
      "initramfs.img",
      "manifest.json",
      "rootfs.ext4",
      "vmlinux",
    ]);
    assert.deepEqual(digests(two.built), digests(one.built));
    assert.match(one.said, /kernel image to vmlinux\n(.*\n)*ext4 image\n/);
    const files = execFileSync("debugfs", ["-R", "ls -l /", join(work, "one/rootfs.ext4")], {
      encoding: "utf8",
      stdio: "pipe",
    });
    assert.match(files, / 41777 .* tmp\n/);
    assert.match(files, / 40755 .* bin\n/);
    const again = build(join(work, "one"), "022", "--rootfs", "busybox");
    assert.doesNotMatch(again.said, /ext4 image|vmlinux/);
  });

  test("a root of an image, whose modes and times it keeps", () => {
    const one = build(join(work, "one"), "022", "--rootfs", `oci:${image}`);
    const two = build(join(work, "two"), "077", "--rootfs", `oci:${image}:v1`);
    assert.equal(digests(two.built)["rootfs.ext4"], digests(one.built)["rootfs.ext4"]);
    const stat = (path: string): string =>
      execFileSync("debugfs", ["-R", `stat ${path}`, join(work, "one/rootfs.ext4")], {
        encoding: "utf8",
        stdio: "pipe",
      });
    assert.match(stat("/bin/busybox"), /Mode: +04711/);
    assert.match(stat("/etc/hostname"), /mtime: 0x3b9aca00/);
  });

  test("an own kernel is taken as it is; what is none is refused", () => {
    const kernel = join(work, "own-vmlinux");
    copyFileSync(join(work, "one/vmlinux"), kernel);
    const { built } = build(join(work, "own"), "022", "--kernel", kernel);
    assert.equal(digests(built)["vmlinux"], createHash("sha256").update(readFileSync(kernel)).digest("hex"));
    const wrong = spawnSync(
      program,
      ["guest", "build", "--output", join(work, "wrong"), "--kernel", "/etc/passwd"],
      { encoding: "utf8" },
    );
    assert.notEqual(wrong.status, 0);
    assert.match(wrong.stderr, /^(.*\n)*tinderbox: \/etc\/passwd: kernel image: neither/);
  });
});
