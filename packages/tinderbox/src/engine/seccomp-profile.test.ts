import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { defaultSeccomp, readSeccompProfile } from "./seccomp-profile.ts";
import { allowedSyscalls, capabilitySyscalls, refusedSyscalls } from "./seccomp-syscalls.ts";

type Rule = { readonly names: readonly string[]; readonly action: string; readonly args?: readonly object[] };
const rulesFor = (capabilities: readonly string[], name: string): readonly Rule[] => {
  // The shape is the one that defaultSeccomp writes.
  const { syscalls } = defaultSeccomp(capabilities) as { readonly syscalls: readonly Rule[] };
  return syscalls.filter((rule) => rule.names.includes(name));
};

test("defaultSeccomp: mount and friends need their capability, clone may make no namespace without it", () => {
  assert.deepEqual(
    rulesFor(["CAP_CHOWN"], "mount").map(({ action }) => action),
    ["SCMP_ACT_ERRNO"],
  );
  assert.deepEqual(
    rulesFor(["CAP_SYS_ADMIN"], "mount").map(({ action }) => action),
    ["SCMP_ACT_ALLOW"],
  );
  assert.deepEqual(
    rulesFor([], "clone").map(({ args }) => args),
    [[{ index: 0, value: 0x7e020000, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }]],
  );
  assert.deepEqual(rulesFor([], "clone3"), []);
  assert.equal(rulesFor(["CAP_SYS_ADMIN"], "clone3").length, 1);
});

test("seccomp lists: no call is both allowed to everybody and guarded", () => {
  const guarded = new Set([...Object.values(capabilitySyscalls).flat(), ...refusedSyscalls]);
  assert.deepEqual(
    allowedSyscalls.filter((name) => guarded.has(name)),
    [],
  );
  assert.equal(new Set(allowedSyscalls).size, allowedSyscalls.length);
});

test("readSeccompProfile: a file in OCI's format, nothing else", async () => {
  const directory = mkdtempSync(join(tmpdir(), "tb-seccomp-"));
  const path = join(directory, "p.json");
  const written = (text: string): Promise<object> => {
    writeFileSync(path, text);
    return readSeccompProfile(path);
  };
  try {
    const profile = { defaultAction: "SCMP_ACT_ALLOW", syscalls: [] };
    assert.deepEqual(await written(JSON.stringify(profile)), profile);
    await assert.rejects(written("{"), /not JSON/);
    await assert.rejects(written("[]"), /defaultAction/);
    await assert.rejects(written(JSON.stringify({ ...profile, archMap: [] })), /"archMap": .* are allowed/);
    await assert.rejects(readSeccompProfile(directory), { code: "INVALID" });
    await assert.rejects(readSeccompProfile("/dev/zero"), /regular file/);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
