import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import { assemble, encodedList, encodedOnce } from "./encoded.ts";
import {
  ContainerSchema,
  ContainerStatusSchema,
  ListContainersResponseSchema,
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

describe("encodedList", () => {
  it("gives the last answer while its objects are the same, in the same order", () => {
    const encode = encodedOnce(ContainerSchema, (one: { id: string }) => one);
    const answer = encodedList(ListContainersResponseSchema, "containers", encode);
    const ids = (items: readonly { id: string }[]): readonly string[] =>
      fromBinary(ListContainersResponseSchema, answer(items).bytes).containers.map(({ id }) => id);
    const [a, b] = [{ id: "a" }, { id: "b" }];
    const first = answer([a, b]);
    assert.equal(answer([a, b]), first);
    assert.deepEqual(ids([a, b]), ["a", "b"]);
    assert.deepEqual(ids([b, a]), ["b", "a"]);
    assert.deepEqual(ids([b]), ["b"]);
    assert.deepEqual(ids([b, { id: "c" }]), ["b", "c"]);
    assert.deepEqual(ids([]), []);
  });
});
