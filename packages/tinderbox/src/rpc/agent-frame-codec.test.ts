import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encodeFrame, type Frame, FrameDecoder, frameKind, maxPayloadBytes } from "./agent-frame-codec.ts";

const kinds = Object.values(frameKind);
const anyFrame = fc.record({
  kind: fc.constantFrom(...kinds),
  channel: fc.integer({ min: 0, max: 2 }),
  payload: fc.uint8Array({ maxLength: 300 }),
});

test("FrameDecoder: whatever the cuts, the frames that were encoded come out", () => {
  fc.assert(
    fc.property(
      fc.array(anyFrame, { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
      (frames, cuts) => {
        const bytes = Buffer.concat(
          frames.map((frame) => encodeFrame(frame.kind, frame.channel, frame.payload)),
        );
        const decoder = new FrameDecoder();
        const got: Frame[] = [];
        for (let at = 0, turn = 0; at < bytes.length; turn++) {
          const size = cuts[turn % cuts.length] ?? 1;
          got.push(...decoder.push(bytes.subarray(at, at + size)));
          at += size;
        }
        assert.ok(decoder.isBetweenFrames);
        assert.deepEqual(
          got.map((frame) => ({ ...frame, payload: Buffer.from(frame.payload).toString("hex") })),
          frames.map((frame) => ({ ...frame, payload: Buffer.from(frame.payload).toString("hex") })),
        );
      },
    ),
  );
});

test("FrameDecoder: garbage gives frames within the limits or AGENT, nothing else", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        for (const frame of new FrameDecoder().push(bytes))
          assert.ok(frame.payload.length <= maxPayloadBytes);
      } catch (thrown) {
        assert.equal((thrown as { code?: string }).code, "AGENT");
      }
    }),
  );
});

test("FrameDecoder: a length over 1 MiB is refused from its header alone", () => {
  const header = Buffer.from([0, 0x10, 0, 1, 5, 1, 0, 0]);
  assert.throws(() => [...new FrameDecoder().push(header)], { code: "AGENT" });
});
