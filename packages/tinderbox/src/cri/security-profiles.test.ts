import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { SecurityProfile_ProfileType, SecurityProfileSchema } from "../rpc/gen/runtime/v1/api_pb.ts";
import { parseAppArmor, parseSeccomp } from "./security-profiles.ts";

const { RuntimeDefault, Unconfined, Localhost } = SecurityProfile_ProfileType;
const profile = (profileType: SecurityProfile_ProfileType, localhostRef = "") =>
  create(SecurityProfileSchema, { profileType, localhostRef });

test("parseAppArmor: a loaded profile by name; nothing where the host has no AppArmor, and then no name", () => {
  const directory = mkdtempSync(join(tmpdir(), "tb-apparmor-"));
  const files = { enabled: join(directory, "enabled"), profiles: join(directory, "profiles") };
  const parse = (...args: Parameters<typeof profile>): string =>
    parseAppArmor("p", profile(...args), "", files);
  try {
    assert.equal(parse(RuntimeDefault), "");
    assert.equal(parse(Unconfined), "");
    assert.throws(() => parse(Localhost, "mine"), { code: "UNSUPPORTED", message: /not enabled/ });
    writeFileSync(files.enabled, "Y\n");
    writeFileSync(files.profiles, "mine (enforce)\nother (complain)\n");
    assert.equal(parse(Localhost, "mine"), "mine");
    assert.equal(parse(Unconfined), "unconfined");
    assert.equal(parseAppArmor("p", undefined, "localhost/other", files), "other");
    assert.equal(parseAppArmor("p", undefined, "", files), "");
    assert.throws(() => parse(Localhost, "min"), { code: "INVALID", message: /"min".*loaded/ });
    assert.throws(() => parse(RuntimeDefault), { code: "UNSUPPORTED", message: /RuntimeDefault/ });
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
