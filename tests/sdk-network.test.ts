/** Taps of the SDK, on the real kernel. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { createTap, FirecrackerNetworkError, removeLeftovers, removeTap } from "@tinderbox/firecracker";

const netns = `sdk-tap-${process.pid}`;
const refusedBy = (field: string | undefined) => (error: unknown) =>
  error instanceof FirecrackerNetworkError && error.field === field;
/** `ip -j` of one device, undefined when there is none */
const show = (name: string): string | undefined => {
  const result = spawnSync("ip", ["-n", netns, "-d", "-j", "link", "show", "dev", name], {
    encoding: "utf8",
  });
  return result.status === 0 ? result.stdout : undefined;
};

describe("taps", () => {
  before(() => execFileSync("ip", ["netns", "add", netns]));
  after(() => execFileSync("ip", ["netns", "delete", netns]));

  test("createTap: in a namespace, with owner, MAC and MTU; removing it twice is fine", async () => {
    const options = { uid: 48_123, gid: 48_124, mac: "06:00:0A:00:00:01", mtu: 9000 };
    const tap = await createTap({ name: "tap0", netns, ...options });
    const shown = show("tap0") ?? "";
    for (const part of [
      '"type":"tap"',
      '"address":"06:00:0a:00:00:01"',
      '"mtu":9000',
      '"UP"',
      '"persist":true',
    ])
      assert.ok(shown.includes(part), `${part} in ${shown}`);
    const owner = (file: string): string =>
      execFileSync("ip", ["netns", "exec", netns, "cat", `/sys/class/net/tap0/${file}`], {
        encoding: "utf8",
      }).trim();
    assert.deepEqual([owner("owner"), owner("group")], ["48123", "48124"]);
    assert.ok(!readFileSync("/proc/net/dev", "utf8").includes("tap0"), "it is not in our own namespace");
    await tap.remove();
    assert.equal(show("tap0"), undefined);
    await tap.remove();
    await removeTap({ name: "tap0", netns: "no-such-namespace" });
  });

  test("createTap: by a namespace's path, removed by its leftover, as after a crash", async () => {
    const tap = await createTap({ name: "tap1", netns: `/run/netns/${netns}` });
    assert.ok(show("tap1"));
    await removeLeftovers([tap.leftover]);
    assert.equal(show("tap1"), undefined);
    await removeLeftovers([tap.leftover]);
  });

  test("createTap: a device that is there is left alone, and what fails half-way leaves nothing", async () => {
    await using tap = await createTap({ name: "tap2", netns });
    await assert.rejects(createTap({ name: "tap2", netns }), refusedBy("name"));
    assert.ok(show(tap.name));
    execFileSync("ip", ["-n", netns, "link", "add", "br9", "type", "bridge"]);
    await assert.rejects(removeTap({ name: "br9", netns }), refusedBy("name"));
    assert.ok(show("br9"));
    // The kernel's own limit for a tap is below what a device may have.
    await assert.rejects(createTap({ name: "tap3", netns, mtu: 65_535 }), refusedBy(undefined));
    assert.equal(show("tap3"), undefined);
  });

  test("createTap: refuses options by field, before anything is made", async () => {
    const rows: readonly [object, string][] = [
      [{ name: "" }, "name"],
      [{ name: "a".repeat(16) }, "name"],
      [{ name: "a b" }, "name"],
      [{ name: "../a" }, "name"],
      [{ name: "-batch" }, "name"],
      [{ uid: -1 }, "uid"],
      [{ gid: 1.5 }, "gid"],
      [{ mtu: 67 }, "mtu"],
      [{ mtu: 65_536 }, "mtu"],
      [{ mac: "01:00:5e:00:00:01" }, "mac"],
      [{ netns: "no-such-namespace" }, "netns"],
      [{ netns: "a/b" }, "netns"],
    ];
    for (const [change, field] of rows)
      await assert.rejects(
        createTap({ name: "tap4", netns, ...change }),
        refusedBy(field),
        JSON.stringify(change),
      );
    assert.equal(show("tap4"), undefined);
  });
});
