// Drives that are block devices: loop devices here, which only root can make.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { guestVcpus } from "./harness/binary.ts";
import { Guest } from "./harness/guest.ts";

const canLoop = process.getuid?.() === 0 && existsSync("/dev/loop-control");
const mib = 1 << 20;

describe("block devices as drives", { skip: canLoop ? false : "loop devices need root" }, () => {
  let guest: Guest;
  const loops: string[] = [];
  const file = (name: string): string => join(guest.vmm.directory, name);
  const attach = (name: string): string => {
    const loop = execFileSync("losetup", ["--find", "--show", file(name)], { encoding: "utf8" }).trim();
    loops.push(loop);
    return loop;
  };
  const isAttached = (loop: string): boolean => existsSync(`/sys/block/${basename(loop)}/loop/backing_file`);
  const put = (id: string, more: object): Promise<void> =>
    guest.vmm.put(`/drives/${id}`, { drive_id: id, is_root_device: false, ...more });
  const sectors = (device: string): Promise<string> => guest.run(`cat /sys/block/${device}/size`);
  /** Its interrupt may come after the answer to PATCH. */
  const patch = async (id: string, path: string, device: string, count: number): Promise<void> => {
    await guest.vmm.put(`/drives/${id}`, { drive_id: id, path_on_host: path }, "PATCH");
    const size = `$(cat /sys/block/${device}/size)`;
    await guest.run(`n=0; while [ ${size} != ${count} ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; done`);
    assert.equal(await sectors(device), String(count));
  };
  const mark = (text: string, device: string, sector: number): string =>
    `echo ${text} | dd of=/dev/${device} bs=512 seek=${sector} conv=sync,fsync 2>/dev/null`;
  const marked = (path: string, sector: number): string =>
    readFileSync(path)
      .subarray(sector * 512, (sector + 1) * 512)
      .toString()
      .split("\n")[0] ?? "";

  before(async () => {
    guest = await Guest.prepare();
    await guest.vmm.put("/machine-config", { vcpu_count: guestVcpus, mem_size_mib: 256 });
    execFileSync("truncate", ["--size=16M", file("first.img"), file("late.img")]);
    execFileSync("truncate", ["--size=512", file("placeholder")]);
    await put("first", { path_on_host: attach("first.img"), cache_type: "Writeback" });
    await put("writable", { path_on_host: file("placeholder"), cache_type: "Writeback" });
    await put("readonly", { path_on_host: file("placeholder"), is_read_only: true });
    await guest.start();
  });
  after(async () => {
    await guest?.vmm.stop();
    for (const loop of loops) if (isAttached(loop)) execFileSync("losetup", ["--detach", loop]);
  });

  test("one that is there from the start has its size, and what the guest flushes is in it", async () => {
    assert.equal(await sectors("vda"), String((16 * mib) / 512));
    await guest.run(mark("from-guest", "vda", 100));
    // The loop device's own file has it only when the flush has gone all the way.
    assert.equal(marked(file("first.img"), 100), "from-guest");
  });

  test("PATCH puts one into a drive of the running machine, and takes it out again", async () => {
    const loop = attach("late.img");
    assert.equal(await sectors("vdb"), "1");
    await patch("writable", loop, "vdb", (16 * mib) / 512);
    await guest.run(mark("late", "vdb", 7));
    assert.equal(marked(file("late.img"), 7), "late");
    await patch("writable", file("placeholder"), "vdb", 1);
    execFileSync("losetup", ["--detach", loop]);
    assert.equal(isAttached(loop), false, "the device is held after the drive has another file");
  });

  test("is_read_only holds for a device that comes later", async () => {
    const loop = attach("late.img");
    await patch("readonly", loop, "vdc", (16 * mib) / 512);
    assert.equal(await guest.run("cat /sys/block/vdc/ro"), "1");
    assert.equal(await guest.run("dd if=/dev/vdc bs=512 skip=7 count=1 2>/dev/null | head -c 4"), "late");
    const { status } = await guest.result(guest.type(mark("never", "vdc", 7)));
    assert.notEqual(status, 0);
    assert.equal(marked(file("late.img"), 7), "late");
    await patch("readonly", file("placeholder"), "vdc", 1);
    execFileSync("losetup", ["--detach", loop]);
    assert.equal(isAttached(loop), false, "the device is held after the drive has another file");
  });

  test("what the host has no room for, or has lost, is the guest's error; the guest runs on", async () => {
    execFileSync("mkdir", [file("small")]);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "small", file("small")]);
    try {
      execFileSync("truncate", ["--size=8M", file("small/disk")]);
      await patch("writable", file("small/disk"), "vdb", (8 * mib) / 512);
      const { status } = await guest.result(
        guest.type("dd if=/dev/zero of=/dev/vdb bs=1M count=4 oflag=direct 2>/dev/null"),
      );
      assert.notEqual(status, 0);
      await patch("writable", file("placeholder"), "vdb", 1);
    } finally {
      execFileSync("umount", ["-l", file("small")]);
    }
    execFileSync("truncate", ["--size=1M", file("late.img")]);
    const loop = attach("late.img");
    await patch("writable", loop, "vdb", mib / 512);
    execFileSync("truncate", ["--size=0", file("late.img")]);
    const read = guest.type("dd if=/dev/vdb of=/dev/null bs=4096 skip=100 count=1 iflag=direct 2>/dev/null");
    assert.notEqual((await guest.result(read)).status, 0);
    await patch("writable", file("placeholder"), "vdb", 1);
    execFileSync("losetup", ["--detach", loop]);
  });

  test("a device that is none is refused, and the drive keeps what it has", async () => {
    const { status, text } = await guest.vmm.send(
      "PATCH",
      "/drives/writable",
      JSON.stringify({ drive_id: "writable", path_on_host: "/dev/loop-nothing" }),
    );
    assert.equal(status, 400);
    assert.match(text, /backing file: No such file or directory.*\/dev\/loop-nothing/);
    assert.equal(await sectors("vdb"), "1");
  });
});
