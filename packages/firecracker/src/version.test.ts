import assert from "node:assert/strict";
import { test } from "node:test";
import { compareVmmVersions, isSupportedSince, parseVmmVersion } from "./version.ts";

test("parseVmmVersion: X.Y.Z with or without v and suffix, nothing else", () => {
  assert.deepEqual(parseVmmVersion("1.16.1"), { major: 1, minor: 16, patch: 1 });
  assert.deepEqual(parseVmmVersion("v1.17.0-dev"), { major: 1, minor: 17, patch: 0 });
  assert.deepEqual(parseVmmVersion("1.7"), { major: 1, minor: 7, patch: 0 });
  for (const bad of ["", "1", "one.two", "1.2.3.4", "1.2.3dev", "-1.2.3", "1.999999.0"])
    assert.throws(() => parseVmmVersion(bad), { code: "FC_ARGUMENT" }, bad);
  assert.ok(compareVmmVersions(parseVmmVersion("1.9.9"), parseVmmVersion("1.10.0")) < 0);
});

test("isSupportedSince: the last version on, and later patches of older lines", () => {
  const since = ["1.14.4", "1.15.1", "1.16.0"];
  const table = {
    "1.13.9": false,
    "1.14.3": false,
    "1.14.4": true,
    "1.14.9": true,
    "1.15.0": false,
    "1.15.1": true,
    "1.16.0": true,
    "2.0.0": true,
  };
  for (const [version, expected] of Object.entries(table))
    assert.equal(isSupportedSince(parseVmmVersion(version), since), expected, version);
});
