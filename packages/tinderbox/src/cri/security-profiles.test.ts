import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import type { AppArmorChoice } from "../engine/app-armor.ts";
import { SecurityProfile_ProfileType, SecurityProfileSchema } from "../rpc/gen/runtime/v1/api_pb.ts";
import { parseAppArmor, parseSeccomp } from "./security-profiles.ts";

const { RuntimeDefault, Unconfined, Localhost } = SecurityProfile_ProfileType;
const profile = (profileType: SecurityProfile_ProfileType, localhostRef = "") =>
  create(SecurityProfileSchema, { profileType, localhostRef });

test("parseAppArmor: what is asked for; a profile by name only where it is loaded", () => {
  const directory = mkdtempSync(join(tmpdir(), "tb-apparmor-"));
  const files = { enabled: join(directory, "enabled"), profiles: join(directory, "profiles") };
  const parse = (...args: Parameters<typeof profile>): AppArmorChoice =>
    parseAppArmor("p", profile(...args), "", files);
  try {
    assert.deepEqual(parseAppArmor("p", undefined, "", files), { kind: "unset" });
    assert.deepEqual(parse(RuntimeDefault), { kind: "default" });
    assert.deepEqual(parse(Unconfined), { kind: "unconfined" });
    assert.throws(() => parse(Localhost, "mine"), { code: "UNSUPPORTED", message: /not enabled/ });
    writeFileSync(files.enabled, "N\n");
    assert.throws(() => parse(Localhost, "mine"), { code: "UNSUPPORTED", message: /not enabled/ });
    writeFileSync(files.enabled, "Y\n");
    assert.throws(() => parse(Localhost, "mine"), { code: "INVALID", message: /"mine".*loaded/ });
    writeFileSync(files.profiles, "mine (enforce)\nother (complain)\n");
    assert.deepEqual(parse(Localhost, "mine"), { kind: "named", name: "mine" });
    assert.deepEqual(parseAppArmor("p", undefined, "localhost/other", files), {
      kind: "named",
      name: "other",
    });
    assert.deepEqual(parse(Localhost, "localhost/mine"), { kind: "named", name: "mine" });
    assert.throws(() => parse(Localhost, "min"), { code: "INVALID", message: /"min".*loaded/ });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("parseSeccomp: the message before the text, none when there is neither", () => {
  assert.deepEqual(parseSeccomp("p", undefined, ""), { kind: "unconfined" });
  assert.deepEqual(parseSeccomp("p", undefined, "runtime/default"), { kind: "default" });
  assert.deepEqual(parseSeccomp("p", undefined, "localhost//a/b.json"), { kind: "file", path: "/a/b.json" });
  assert.deepEqual(parseSeccomp("p", profile(Unconfined), "runtime/default"), { kind: "unconfined" });
  assert.throws(() => parseSeccomp("p", undefined, "nonsense"), /"nonsense".*localhost\/PROFILE/);
  assert.throws(() => parseSeccomp("p", profile(Localhost, "../x"), ""), /absolute path/);
});
