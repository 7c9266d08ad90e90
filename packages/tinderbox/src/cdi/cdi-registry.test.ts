import assert from "node:assert/strict";
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { CdiRegistry } from "./cdi-registry.ts";
import type { CdiRequest } from "./contract.ts";

const named = (name: string): readonly CdiRequest[] => [{ field: "f", name }];
const file = (value: string, devices = ["d"], more: object = {}): string =>
  JSON.stringify({
    cdiVersion: "1.1.0",
    kind: "v.com/c",
    containerEdits: { env: [`FILE=${value}`] },
    devices: devices.map((name) => ({ name, containerEdits: { env: [`DEVICE=${value}-${name}`], ...more } })),
  });

describe("CdiRegistry", { skip: process.getuid?.() === 0 ? false : "the files have to be root's" }, () => {
  let work = "";
  let low = "";
  let high = "";
  let registry: CdiRegistry;
  beforeEach(() => {
    work = mkdtempSync("/tmp/cdi-");
    low = join(work, "low");
    high = join(work, "high");
    mkdirSync(low);
    mkdirSync(high);
    registry = new CdiRegistry([low, join(work, "none"), high]);
  });
  afterEach(() => rmSync(work, { recursive: true }));

  test("a file's own edits come once, before those of its devices", async () => {
    writeFileSync(join(low, "a.json"), file("a", ["d", "e"]));
    const { env } = await registry.edits([...named("v.com/c=e"), ...named("v.com/c=d")]);
    assert.deepEqual(env, ["FILE=a", "DEVICE=a-e", "DEVICE=a-d"]);
  });

  test("files are read again when they change, come and go", async () => {
    const env = async (): Promise<string | undefined> => (await registry.edits(named("v.com/c=d"))).env[0];
    writeFileSync(join(low, "a.yaml"), file("one"));
    assert.equal(await env(), "FILE=one");
    writeFileSync(join(low, "a.yaml"), file("two"));
    assert.equal(await env(), "FILE=two");
    rmSync(join(low, "a.yaml"));
    await assert.rejects(env(), /there is no such CDI device/);
    writeFileSync(join(low, "a.txt"), file("three"));
    await assert.rejects(env(), /there is no such CDI device/);
  });

  test("the later directory wins; two files of one directory do not", async () => {
    writeFileSync(join(low, "a.json"), file("low", ["d", "only-low"]));
    writeFileSync(join(low, "b.json"), file("other"));
    await assert.rejects(registry.edits(named("v.com/c=d")), (error: Error) => {
      assert.equal(error.message.includes(`${low}/a.json, ${low}/b.json`), true, error.message);
      return true;
    });
    assert.deepEqual((await registry.edits(named("v.com/c=only-low"))).env[0], "FILE=low");
    writeFileSync(join(high, "a.json"), file("high"));
    assert.deepEqual((await registry.edits(named("v.com/c=d"))).env[0], "FILE=high");
  });

  test("an unknown device is refused with where it was looked for, and with what is wrong there", async () => {
    writeFileSync(join(low, "broken.json"), "{");
    await assert.rejects(registry.edits(named("v.com/c=x")), {
      code: "INVALID",
      message: new RegExp(`^f: "v.com/c=x": .*looked for in ${low}, .*, ${high}; .*broken.json: not JSON`),
    });
    await assert.rejects(new CdiRegistry([]).edits(named("v.com/c=x")), /cdi_spec_dirs is empty/);
  });

  test("what others may change is not read", async () => {
    const path = join(low, "a.json");
    const problem = async (): Promise<string> => (await registry.status()).problems.join("\n");
    writeFileSync(path, file("a"));
    assert.equal(await problem(), "");
    chmodSync(path, 0o664);
    assert.match(await problem(), /a\.json: others than root may write/);
    chmodSync(path, 0o644);
    chownSync(path, 1000, 0);
    assert.match(await problem(), /a\.json: it belongs to user 1000/);
    chownSync(path, 0, 0);
    chmodSync(low, 0o777);
    assert.match(await problem(), /low is not used: others than root may write/);
    chmodSync(low, 0o755);
    chmodSync(work, 0o777);
    assert.match(await problem(), /low is not used: .*: others than root may write/);
    chmodSync(work, 0o755);
    assert.equal(await problem(), "");
    symlinkSync(path, join(high, "link.json"));
    mkdirSync(join(high, "directory.json"));
    truncateSync(path, 2 << 20);
    assert.match(await problem(), /a\.json: 2097152 bytes: at most/);
    assert.match(await problem(), /link\.json: a link/);
    assert.match(await problem(), /directory\.json: not a file/);
    assert.deepEqual((await registry.status()).devices, []);
  });

  test("edits that are not made are refused when the device is asked for, not before", async () => {
    writeFileSync(join(low, "a.json"), file("a", ["d"], { intelRdt: { closID: "x" } }));
    assert.deepEqual((await registry.status()).devices, ["v.com/c=d"]);
    await assert.rejects(registry.edits(named("v.com/c=d")), {
      code: "UNSUPPORTED",
      message: /^f: "v.com\/c=d": containerEdits\.intelRdt of a\.json is not supported/,
    });
  });
});
