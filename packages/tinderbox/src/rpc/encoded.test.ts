import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import { assemble, encodedOnce } from "./encoded.ts";
import {
  ContainerStatusSchema,
  PodSandboxStatusResponseSchema,
  PodSandboxStatusSchema,
} from "./gen/runtime/v1/api_pb.ts";

describe("assemble", () => {
  it("gives the message that plain fields alone would", () => {
    const pod = { id: "pod", createdAt: 5n };
    // The last is longer than one byte of a length can say.
    const containers = ["a", "b", "c".repeat(40_000)].map((id) => ({
      id,
      labels: { app: id },
      exitCode: -1,
      createdAt: 7n,
    }));
    const plain = { info: { info: "{}" }, timestamp: 3n };
    const podBytes = encodedOnce(PodSandboxStatusSchema, (one: typeof pod) => one);
    const containerBytes = encodedOnce(ContainerStatusSchema, (one: (typeof containers)[number]) => one);
    const { bytes } = assemble(
      PodSandboxStatusResponseSchema,
      { status: [podBytes(pod)], containersStatuses: containers.map(containerBytes) },
      plain,
    );
    assert.deepEqual(
      fromBinary(PodSandboxStatusResponseSchema, bytes),
      create(PodSandboxStatusResponseSchema, { status: pod, containersStatuses: containers, ...plain }),
    );
  });

  it("an empty message has no bytes", () => {
    assert.equal(assemble(PodSandboxStatusResponseSchema, {}, {}).bytes.length, 0);
  });
});

describe("encodedOnce", () => {
  it("encodes an object once, and another one with the same content again", () => {
    let made = 0;
    const once = encodedOnce(ContainerStatusSchema, ({ id }: { id: string }) => ({ id: `${id}${++made}` }));
    const source = { id: "a" };
    assert.equal(once(source), once(source));
    assert.equal(fromBinary(ContainerStatusSchema, once({ id: "a" })).id, "a2");
  });
});
