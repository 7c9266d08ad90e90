import assert from "node:assert/strict";
import { test } from "node:test";
import { directSpawner } from "./spawner.ts";
import { vmmArguments } from "./vmm-arguments.ts";

test("vmmArguments: each flag by its name, nothing that was not asked for", () => {
  assert.deepEqual(vmmArguments({}), []);
  assert.deepEqual(vmmArguments({ noSeccomp: false, enablePci: false }), []);
  assert.deepEqual(
    vmmArguments({
      enablePci: true,
      bootTimer: true,
      seccompFilter: "/f",
      httpApiMaxPayloadBytes: 100_000,
      mmdsSizeLimitBytes: 200_000,
      logPath: "/l",
      logLevel: "Debug",
      showLevel: true,
      showLogOrigin: true,
      logModule: "vmm",
      metricsPath: "/m",
    }),
    "--enable-pci --boot-timer --seccomp-filter /f --http-api-max-payload-size 100000 --mmds-size-limit 200000 --log-path /l --level Debug --show-level --show-log-origin --module vmm --metrics-path /m".split(
      " ",
    ),
  );
  assert.deepEqual(vmmArguments({ noSeccomp: true }), ["--no-seccomp"]);
  assert.throws(() => vmmArguments({ noSeccomp: true, seccompFilter: "/f" }), { field: "seccompFilter" });
});

test("directSpawner: prefix, binary, socket, id, the rest", () => {
  const plain = directSpawner({ binary: "/fc", apiSocket: "/s", id: "a-1" });
  assert.deepEqual(plain.command(["--no-seccomp"]), {
    file: "/fc",
    args: ["--api-sock", "/s", "--id", "a-1", "--no-seccomp"],
    env: undefined,
    cwd: undefined,
  });
  const wrapped = directSpawner({
    binary: "/fc",
    apiSocket: "/s",
    id: "a",
    spawnPrefix: ["ip", "netns", "exec", "n"],
  });
  assert.deepEqual(
    [wrapped.command([]).file, ...wrapped.command([]).args],
    "ip netns exec n /fc --api-sock /s --id a".split(" "),
  );
  for (const id of ["", "a_1", "a/b", "x".repeat(65)])
    assert.throws(() => directSpawner({ binary: "/fc", apiSocket: "/s", id }), {
      code: "FC_ARGUMENT",
      field: "id",
    });
});
