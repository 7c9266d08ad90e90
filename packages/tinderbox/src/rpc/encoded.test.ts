import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import { encode, encodedList, encodedOnce, joined } from "./encoded.ts";
import {
  ContainerStatusSchema,
  ListContainersResponseSchema,
  PodSandboxStatusResponseSchema,
} from "./gen/runtime/v1/api_pb.ts";

describe("joined", () => {
  it("gives the message that has all fields", () => {
    const status = { id: "pod", createdAt: 5n };
    // The last is longer than one byte of a length can say.
    const containersStatuses = ["a", "b", "c".repeat(40_000)].map((id) => ({
      id,
      labels: { app: id },
      exitCode: -1,
      createdAt: 7n,
    }));
    const rest = { info: { info: "{}" }, timestamp: 3n };
    const fields = [{ status }, ...containersStatuses.map((one) => ({ containersStatuses: [one] })), rest];
    const { bytes } = joined(fields.map((some) => encode(PodSandboxStatusResponseSchema, some)));
    assert.deepEqual(
      fromBinary(PodSandboxStatusResponseSchema, bytes),
      create(PodSandboxStatusResponseSchema, { status, containersStatuses, ...rest }),
    );
  });

  it("an empty message has no bytes", () => {
    assert.equal(joined([]).bytes.length, 0);
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
    const entry = encodedOnce(ListContainersResponseSchema, (one: { id: string }) => ({ containers: [one] }));
    const answer = encodedList(entry);
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
