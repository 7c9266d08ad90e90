/**
 * The SDK's examples, run as a person runs them, against firecracker-qemu (FIRECRACKER_BIN for another). What it cannot do
 * at all, an example shows as the refusal that it is; once it can, `--expect-refusal` fails, and the row here has to change.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

const examples = join(import.meta.dirname, "../packages/firecracker/examples");

/** What an example must print, or the error it must end in. */
type Outcome = { readonly prints: readonly RegExp[] } | { readonly refusal: RegExp };

const outcomes: Readonly<Record<string, Outcome>> = {
  "01-boot.ts": {
    prints: [
      /up in \d+ ms/,
      /^Linux .*(x86_64|aarch64)/m,
      /^Mem:/m,
      /Running/,
      /the guest ended by itself: exit status 0/,
    ],
  },
  // There is no jailer in any registry; with one, this example is run by hand.
  "02-jailed.ts": { refusal: /FC_JAILER jailerBinary: / },
  "03-vsock-echo.ts": {
    prints: [
      /^hello, guest$/m,
      /1 MiB there and back/,
      new RegExp(`50 at a time: ${[...Array(50).keys()].join(" ")}$`, "m"),
    ],
  },
  "04-snapshot-and-ten-clones.ts": {
    prints: [
      /snapshot: 192 MiB of memory/,
      /10 clones in/,
      ...[...Array(10).keys()].map((index) => new RegExp(`I am clone ${index}$`, "m")),
    ],
  },
  "05-mmds.ts": {
    prints: [
      /a token of [1-9]\d+ characters/,
      /instance\/id: i-0123/,
      /after a PATCH: there/,
      /without a token: HTTP\/1\.1 401/,
    ],
  },
  "06-balloon.ts": {
    prints: [/balloon of 96 MiB \(24576 pages\): \d+ MiB free/, /balloon empty: \d+ MiB free/],
  },
  // QEMU's microvm machine has no PCI here.
  "07-hot-plugged-drive.ts": { refusal: /FC_EXITED .*exit status 153 .*enable-pci/ },
  "08-metrics.ts": { prints: [/record 1 of 20\d\d-/, /record 2 of 20\d\d-/, /groups: .*put_api_requests/] },
  "09-rate-limit.ts": { prints: [/4 MiB without a limit: \d/, /the limit was felt/] },
  "10-adopt-after-crash.ts": {
    prints: [
      /owner: started pid \d+/,
      /the journal has 1 alive, 0 dead, 0 unknown/,
      /still there\?/,
      /left of it: nothing/,
    ],
  },
};

describe("the SDK's examples", () => {
  let work: string;
  before(() => {
    work = mkdtempSync(join(tmpdir(), "sdk-examples-"));
  });
  after(() => rmSync(work, { recursive: true, force: true }));

  test("are ten, each short, and each has its row here", () => {
    const files = readdirSync(examples).filter((name) => /^\d\d-/.test(name));
    assert.deepEqual(files.toSorted(), Object.keys(outcomes));
    for (const name of files)
      assert.ok(readFileSync(join(examples, name), "utf8").split("\n").length < 80, name);
  });

  for (const [name, outcome] of Object.entries(outcomes)) {
    test(name, () => {
      const isRefused = "refusal" in outcome;
      const args = [join(examples, name), ...(isRefused ? ["--expect-refusal"] : [])];
      const env = { ...process.env, TMPDIR: work };
      const result = spawnSync(process.execPath, args, { encoding: "utf8", env, timeout: 240_000 });
      const said = `${result.stdout}\n${result.stderr}`;
      assert.equal(result.status, 0, said);
      for (const wanted of isRefused ? [outcome.refusal] : outcome.prints)
        assert.match(result.stdout, wanted);
      assert.deepEqual(readdirSync(work), [], "files are left");
      const left = spawnSync("pgrep", ["-af", work], { encoding: "utf8" }).stdout;
      assert.equal(left, "", "processes are left");
      const links = spawnSync("ip", ["-brief", "link"], { encoding: "utf8" }).stdout;
      assert.doesNotMatch(links, /^fcex/m, "a tap is left");
    });
  }
});
