import assert from "node:assert/strict";
import { test } from "node:test";
import {
  explainExitCode,
  FirecrackerApiError,
  FirecrackerError,
  FirecrackerExitedError,
  FirecrackerVersionError,
} from "./errors.ts";

test("FirecrackerApiError: status, fault, operation and the field that the VMM names", () => {
  const error = new FirecrackerApiError(
    "PUT",
    "/drives/a",
    400,
    "An error: unknown field `nope`, expected `x` at line 1",
  );
  assert.ok(error instanceof FirecrackerError);
  assert.deepEqual(
    [error.name, error.code, error.field, error.status],
    ["FirecrackerApiError", "FC_API", "nope", 400],
  );
  assert.match(error.message, /^PUT \/drives\/a: status 400: An error/);
  assert.equal(new FirecrackerApiError("GET", "/", 400, "no").field, undefined);
});

test("FirecrackerExitedError: says what an exit status means, and the last words", () => {
  assert.equal(
    new FirecrackerExitedError(148, null, "oh\n").message,
    "the VMM ended with exit status 148 (a system call that its seccomp filter forbids): oh",
  );
  assert.equal(new FirecrackerExitedError(null, "SIGKILL", "").message, "the VMM ended with signal SIGKILL");
  assert.match(new FirecrackerExitedError(null, null, "").message, /not our child/);
  assert.equal(explainExitCode(0), undefined);
  assert.match(explainExitCode(153) ?? "", /arguments/);
});

test("FirecrackerVersionError: names the feature, who has it and who is asked", () => {
  const error = new FirecrackerVersionError("PUT /x: y", ["1.15.1", "1.16.0"], "1.14.0");
  assert.equal(error.message, "PUT /x: y needs 1.15.1 or 1.16.0; this VMM is 1.14.0");
});
