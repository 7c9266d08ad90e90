import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { describeEscapes, findKnownEscapes, hasFix, knownEscapes } from "./known-escapes.ts";

const work = mkdtempSync(join(tmpdir(), "tb-escapes-"));
after(() => rmSync(work, { recursive: true, force: true }));

function runtimeThatSays(text: string): string {
  const path = join(work, `runtime-${text.replaceAll(/\W/g, "-")}`);
  writeFileSync(path, `#!/bin/sh\necho '${text}'\n`, { mode: 0o755 });
  return path;
}

test("hasFix: by branch; what is newer than all branches has it, what is older than all has not", () => {
  const fixedIn = ["1.2.8", "1.3.3", "1.4.0"];
  const fixed = ["1.2.8", "1.2.9", "1.3.3", "1.4.0", "1.5.2", "2.0.0"];
  const open = ["1.1.15", "1.2.7", "1.3.2", "1.4.0-rc.2", "0.9", "1.1.5+ds1"];
  assert.deepEqual(
    [...fixed, ...open].filter((version) => hasFix(version, fixedIn)),
    fixed,
  );
});

test("18, a runc with known escapes is told by its version (CVE-2024-21626, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881)", async () => {
  const said = async (text: string): Promise<string> =>
    describeEscapes(await findKnownEscapes(runtimeThatSays(text)));
  const old = await said("runc version 1.1.5");
  assert.match(
    old,
    /^runc 1\.1\.5 has known container escapes: CVE-2024-21626 \(mended in runc 1\.1\.12\); CVE-2025-31133, CVE-2025-52565, CVE-2025-52881 \(mended in runc 1\.2\.8, 1\.3\.3, 1\.4\.0\)$/,
  );
  assert.doesNotMatch(await said("runc version 1.1.12"), /CVE-2024-21626/);
  assert.equal(await said("runc version 1.5.2"), "");
  assert.match(await said("crun version 1.4.3"), /CVE-2022-27650/);
  assert.equal(await said("crun version 1.8.1"), "");
  assert.equal(await said("youki version 0.1"), "");
});

test("18, a Debian package says by its changelog what it mended without a new version (CVE-2024-21626)", async (t) => {
  const isDebians = /^runc: /.test(
    execFileSync("sh", ["-c", "dpkg-query -S /usr/sbin/runc 2>/dev/null || true"], { encoding: "utf8" }),
  );
  if (!isDebians) return t.skip("runc is not Debian's here");
  const { version, open, unclear } = await findKnownEscapes("/usr/sbin/runc");
  const named = [...open, ...unclear].flatMap(({ cves }) => cves);
  // Bookworm's 1.1.5 has it mended; where there is no changelog nobody can tell.
  if (unclear.length === 0) assert.equal(named.includes("CVE-2024-21626"), false, version);
  else assert.equal(open.length, 0);
  for (const cve of named) assert.ok(knownEscapes["runc"]?.some(({ cves }) => cves.includes(cve)));
});
