import assert from "node:assert/strict";
import { test } from "node:test";
import { planStaging, type StagedFileFacts, type StagingAccess, type StagingMethod } from "./staging-plan.ts";

const user = { uid: 4000, gid: 4001 };
const file = (uid: number, gid: number, mode: number): StagedFileFacts => ({ kind: "file", uid, gid, mode });

test("planStaging: the methods in order, and whether the host's file is given away", () => {
  const shared: readonly StagingMethod[] = ["link", "bind"];
  const rows: readonly [
    StagedFileFacts,
    StagingAccess,
    StagingMethod | undefined,
    readonly StagingMethod[],
    boolean,
  ][] = [
    // Read by everybody, written by root: shared by all jails.
    [file(0, 0, 0o644), "ro", undefined, ["link", "bind", "copy"], false],
    [file(0, 4001, 0o640), "ro", undefined, ["link", "bind", "copy"], false],
    // Readable, but the jail could write to it, or make it writable.
    [file(0, 0, 0o666), "ro", undefined, ["bind", "copy"], false],
    [file(4000, 0, 0o400), "ro", undefined, ["bind", "copy"], false],
    // Not readable: the jail gets a copy, and the file stays as it is.
    [file(0, 0, 0o600), "ro", undefined, ["copy"], false],
    [file(4000, 0, 0o040), "ro", undefined, ["copy"], false],
    // Written: never a copy.
    [file(4000, 4001, 0o600), "rw", undefined, shared, false],
    [file(0, 4001, 0o660), "rw", undefined, shared, false],
    [file(0, 0, 0o644), "rw", undefined, shared, true],
    [file(4000, 4001, 0o400), "rw", undefined, shared, true],
    [{ kind: "channel", uid: 0, gid: 0, mode: 0o755 }, "ro", undefined, shared, true],
    [{ kind: "block", uid: 0, gid: 6, mode: 0o660 }, "rw", undefined, ["node"], false],
    // As asked, also where it is not what would be chosen.
    [file(0, 0, 0o644), "rw", "copy", ["copy"], false],
    [file(0, 0, 0o600), "ro", "link", ["link"], true],
    [file(0, 0, 0o644), "ro", "bind", ["bind"], false],
  ];
  for (const [facts, access, asked, methods, takeOwnership] of rows)
    assert.deepEqual(
      planStaging(facts, access, user, asked),
      { methods, takeOwnership },
      `${JSON.stringify(facts)} ${access} ${asked}`,
    );
});
