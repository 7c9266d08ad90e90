/** Impossible CRI requests over the real socket, beside those of bad-pod-requests.test.ts: the right code, a message naming the field. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { assertRefused, type Case, CriFixture, long } from "./support/cri-fixture.ts";

const cri = new CriFixture();

/** Whether this process, and so the daemon, can have it; 24 is CAP_SYS_RESOURCE. */
function hasCapability(number: number): boolean {
  const bounding = /^CapBnd:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  return ((BigInt(`0x${bounding}`) >> BigInt(number)) & 1n) === 1n;
}

const byId = (
  method:
    | "startContainer"
    | "stopContainer"
    | "removeContainer"
    | "containerStatus"
    | "reopenContainerLog"
    | "containerStats",
): Case[] => [
  [
    `${method}: no id`,
    () => cri.runtime.callUnary(method, { containerId: "" }),
    "INVALID",
    /^container_id: "" is not allowed/,
  ],
  [
    `${method}: an id that is a path`,
    () => cri.runtime.callUnary(method, { containerId: "../../x" }),
    "INVALID",
    /^container_id: "\.\.\/\.\.\/x"/,
  ],
  [
    `${method}: a long id`,
    () => cri.runtime.callUnary(method, { containerId: long }),
    "INVALID",
    /^container_id: "x+\.\.\./,
  ],
  [`${method}: NUL`, () => cri.runtime.callUnary(method, { containerId: "a\0" }), "INVALID", /^container_id/],
];
const byPodId = (
  method: "stopPodSandbox" | "removePodSandbox" | "podSandboxStatus" | "podSandboxStats",
): Case[] => [
  [
    `${method}: no id`,
    () => cri.runtime.callUnary(method, { podSandboxId: "" }),
    "INVALID",
    /^pod_sandbox_id: "" is not allowed/,
  ],
  [
    `${method}: an id that is a path`,
    () => cri.runtime.callUnary(method, { podSandboxId: "a/b" }),
    "INVALID",
    /^pod_sandbox_id: "a\/b"/,
  ],
];
const unknown = "f".repeat(64);

const otherCases: readonly Case[] = [
  ...(
    [
      "startContainer",
      "stopContainer",
      "removeContainer",
      "containerStatus",
      "reopenContainerLog",
      "containerStats",
    ] as const
  ).flatMap(byId),
  ...(["stopPodSandbox", "removePodSandbox", "podSandboxStatus", "podSandboxStats"] as const).flatMap(
    byPodId,
  ),
  ...(["startContainer", "containerStatus", "reopenContainerLog", "containerStats"] as const).map(
    (method): Case => [
      `${method}: unknown`,
      () => cri.runtime.callUnary(method, { containerId: unknown }),
      "NOT_FOUND",
      /^container "f+" does not exist/,
    ],
  ),
  ...(["podSandboxStatus", "podSandboxStats"] as const).map(
    (method): Case => [
      `${method}: unknown`,
      () => cri.runtime.callUnary(method, { podSandboxId: unknown }),
      "NOT_FOUND",
      /^pod "f+" does not exist/,
    ],
  ),
  [
    "startContainer: it runs",
    () => cri.runtime.callUnary("startContainer", { containerId: cri.ids.running }),
    "WRONG_STATE",
    /is running/,
  ],
  [
    "startContainer: it has exited",
    () => cri.runtime.callUnary("startContainer", { containerId: cri.ids.exited }),
    "WRONG_STATE",
    /exited/,
  ],
  [
    "stopContainer: a negative time",
    () => cri.runtime.callUnary("stopContainer", { containerId: cri.ids.running, timeout: -1n }),
    "INVALID",
    /^timeout: -1 /,
  ],
  [
    "reopenContainerLog: it has exited",
    () => cri.runtime.callUnary("reopenContainerLog", { containerId: cri.ids.exited }),
    "WRONG_STATE",
    /exited|running/,
  ],
  [
    "updateContainerResources: nothing",
    () => cri.runtime.callUnary("updateContainerResources", { containerId: cri.ids.running }),
    "INVALID",
    /^linux: missing/,
  ],
  [
    "updateContainerResources: Windows",
    () => cri.runtime.callUnary("updateContainerResources", { containerId: cri.ids.running, windows: {} }),
    "UNSUPPORTED",
    /^windows/,
  ],
  [
    "updateContainerResources: negative",
    () =>
      cri.runtime.callUnary("updateContainerResources", {
        containerId: cri.ids.running,
        linux: { memoryLimitInBytes: -5n },
      }),
    "INVALID",
    /^linux\.memory_limit_in_bytes: -5/,
  ],
  [
    "updateContainerResources: unknown",
    () => cri.runtime.callUnary("updateContainerResources", { containerId: unknown, linux: {} }),
    "NOT_FOUND",
    /does not exist/,
  ],
  [
    "execSync: no command",
    () => cri.runtime.callUnary("execSync", { containerId: cri.ids.running }),
    "INVALID",
    /^cmd: missing/,
  ],
  [
    "execSync: NUL",
    () => cri.runtime.callUnary("execSync", { containerId: cri.ids.running, cmd: ["a", "\0"] }),
    "INVALID",
    /^cmd\[1\]/,
  ],
  [
    "execSync: a negative time",
    () => cri.runtime.callUnary("execSync", { containerId: cri.ids.running, cmd: ["true"], timeout: -1n }),
    "INVALID",
    /^timeout: -1/,
  ],
  [
    "execSync: it does not run",
    () => cri.runtime.callUnary("execSync", { containerId: cri.ids.created, cmd: ["true"] }),
    "WRONG_STATE",
    /created|running/,
  ],
  [
    "execSync: unknown",
    () => cri.runtime.callUnary("execSync", { containerId: unknown, cmd: ["true"] }),
    "NOT_FOUND",
    /does not exist/,
  ],
  [
    "execSync: no such program",
    () => cri.runtime.callUnary("execSync", { containerId: cri.ids.running, cmd: ["/none"] }),
    "RUNTIME",
    /\/none/,
  ],
  [
    "exec: no stream",
    () => cri.runtime.callUnary("exec", { containerId: cri.ids.running, cmd: ["true"] }),
    "INVALID",
    /^stdin, stdout, stderr: false is not allowed: at least one/,
  ],
  [
    "exec: a terminal with stderr",
    () =>
      cri.runtime.callUnary("exec", {
        containerId: cri.ids.running,
        cmd: ["true"],
        tty: true,
        stdout: true,
        stderr: true,
      }),
    "INVALID",
    /^stderr: true is not allowed: false with tty/,
  ],
  [
    "exec: it has exited",
    () => cri.runtime.callUnary("exec", { containerId: cri.ids.exited, cmd: ["true"], stdout: true }),
    "WRONG_STATE",
    /is exited/,
  ],
  [
    "attach: it has exited",
    () => cri.runtime.callUnary("attach", { containerId: cri.ids.exited, stdout: true }),
    "WRONG_STATE",
    /is exited/,
  ],
  ["portForward: no pod", () => cri.runtime.callUnary("portForward", {}), "INVALID", /^pod_sandbox_id/],
  [
    "portForward: port 0",
    () => cri.runtime.callUnary("portForward", { podSandboxId: cri.ids.pod, port: [0] }),
    "INVALID",
    /^port\[0\]: 0 /,
  ],
  [
    "portForward: a stopped pod",
    () => cri.runtime.callUnary("portForward", { podSandboxId: cri.ids.stopped, port: [80] }),
    "WRONG_STATE",
    /not ready/,
  ],
  [
    "checkpointContainer: nowhere",
    () => cri.runtime.callUnary("checkpointContainer", { containerId: cri.ids.running }),
    "INVALID",
    /^location: ""/,
  ],
  ["imageStatus: nothing", () => cri.images.callUnary("imageStatus", {}), "INVALID", /^image: missing/],
  [
    "imageStatus: an empty name",
    () => cri.images.callUnary("imageStatus", { image: { image: "" } }),
    "INVALID",
    /^image\.image: ""/,
  ],
  ["pullImage: nothing", () => cri.images.callUnary("pullImage", {}), "INVALID", /^image: missing/],
  [
    "pullImage: capitals",
    () => cri.images.callUnary("pullImage", { image: { image: "UPPER" } }),
    "IMAGE_REFERENCE",
    /^image "UPPER": .*lower-case/,
  ],
  [
    "pullImage: a short digest",
    () => cri.images.callUnary("pullImage", { image: { image: "x@sha256:12" } }),
    "IMAGE_REFERENCE",
    /digest/,
  ],
  [
    "pullImage: a path",
    () => cri.images.callUnary("pullImage", { image: { image: "oci-archive:/etc/shadow" } }),
    "IMAGE_REFERENCE",
    /^image "oci-archive:\/etc\/shadow"/,
  ],
  [
    "pullImage: another path",
    () => cri.images.callUnary("pullImage", { image: { image: "../../etc/passwd" } }),
    "IMAGE_REFERENCE",
    /^image "\.\.\/\.\.\/etc\/passwd"/,
  ],
  [
    "pullImage: NUL",
    () => cri.images.callUnary("pullImage", { image: { image: "a\0" } }),
    "INVALID",
    /^image\.image/,
  ],
  [
    "pullImage: a long name",
    () => cri.images.callUnary("pullImage", { image: { image: long } }),
    "INVALID",
    /^image\.image: .*at most 1024/,
  ],
  ["removeImage: nothing", () => cri.images.callUnary("removeImage", {}), "INVALID", /^image: missing/],
  [
    "import: no transport",
    () => cri.imports.callUnary("import", { path: "/x" }),
    "INVALID",
    /^transport: "": one of oci, oci-archive, docker-archive/,
  ],
  [
    "import: a relative path",
    () => cri.imports.callUnary("import", { transport: "oci", path: "x" }),
    "INVALID",
    /^path: "x": an absolute path/,
  ],
  [
    "import: NUL",
    () => cri.imports.callUnary("import", { transport: "oci", path: "/x\0" }),
    "INVALID",
    /^path/,
  ],
  [
    "import: a bad name",
    () => cri.imports.callUnary("import", { transport: "oci", path: "/x", name: "UP" }),
    "IMAGE_REFERENCE",
    /"UP"/,
  ],
  [
    "import: not there",
    () => cri.imports.callUnary("import", { transport: "oci", path: "/none" }),
    "NOT_FOUND",
    /^oci:\/none: oci-layout is not there/,
  ],
];
for (const [kind, cases] of Object.entries({ others: otherCases })) {
  describe(`refused: ${kind}`, () => {
    for (const one of cases) test(one[0], () => assertRefused(one));
  });
}

describe("not wrong", () => {
  test("ending what is not there, again and again", async () => {
    for (let n = 0; n < 2; n++) {
      await cri.runtime.callUnary("stopContainer", { containerId: unknown, timeout: 0n });
      await cri.runtime.callUnary("removeContainer", { containerId: unknown });
      await cri.runtime.callUnary("stopPodSandbox", { podSandboxId: unknown });
      await cri.runtime.callUnary("removePodSandbox", { podSandboxId: unknown });
      await cri.runtime.callUnary("stopPodSandbox", { podSandboxId: cri.ids.stopped });
      await cri.images.callUnary("removeImage", { image: { image: "none.test/x:1" } });
    }
    assert.equal(
      (await cri.images.callUnary("imageStatus", { image: { image: "none.test/x:1" } })).image,
      undefined,
    );
  });

  test("an oom_score_adj that cannot be had: the container gets the lowest there is, and it is said once", async () => {
    const hasResource = hasCapability(24);
    for (const name of ["oom-1", "oom-2"]) {
      const linux = { resources: { oomScoreAdj: -998n } };
      const config = cri.container({ metadata: { name, attempt: 0 }, linux });
      const { containerId } = await cri.runtime.callUnary("createContainer", {
        podSandboxId: cri.ids.pod,
        config,
      });
      await cri.runtime.callUnary("startContainer", { containerId });
      const { stdout } = await cri.runtime.callUnary("execSync", {
        containerId,
        cmd: ["cat", "/proc/1/oom_score_adj"],
      });
      assert.equal(
        Number(Buffer.from(stdout).toString()),
        hasResource ? -998 : Number(readFileSync("/proc/self/oom_score_adj", "utf8")),
      );
      await cri.runtime.callUnary("removeContainer", { containerId });
    }
    assert.equal(
      cri.daemon.said().split("oom_score_adj cannot be lowered here").length - 1,
      hasResource ? 0 : 1,
    );
  });

  test("lists by filters that nothing fits", async () => {
    assert.deepEqual((await cri.runtime.callUnary("listPodSandbox", { filter: { id: "../x" } })).items, []);
    assert.deepEqual(
      (await cri.runtime.callUnary("listContainers", { filter: { id: "\0" } })).containers,
      [],
    );
  });
});

test("a message over the kubelet's limit is refused, and the daemon goes on", async () => {
  await assert.rejects(
    cri.runtime.callUnary("execSync", { containerId: cri.ids.running, cmd: ["true", "x".repeat(17 << 20)] }),
    { code: "LIMIT" },
  );
  await assert.rejects(
    cri.runtime.callUnary("runPodSandbox", { config: cri.pod({ labels: { x: "y".repeat(17 << 20) } }) }),
    { code: "LIMIT" },
  );
  assert.equal((await cri.runtime.callUnary("version", {})).runtimeName, "tinderbox");
});

test("nothing was made by any of them", () => cri.assertNothingMade());
