import assert from "node:assert/strict";
import { test } from "node:test";
import { constants, createDeflate } from "node:zlib";
import fc from "fast-check";
import { spdyDictionary } from "./spdy-dictionary.ts";
import { controlFrame, dataHead, type SpdyFrame, SpdyFrameReader } from "./spdy-frame-codec.ts";
import { decodeHeaders, encodeHeaders, HeaderReader, HeaderWriter } from "./spdy-header-block.ts";

const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array));
const frame = fc.oneof(
  fc.record({ id: fc.integer({ min: 1, max: 0x7fff_ffff }), fin: fc.boolean(), payload: bytes }),
  fc.record({
    type: fc.integer({ min: 1, max: 9 }),
    flags: fc.integer({ min: 0, max: 255 }),
    payload: bytes,
  }),
);
const headers = fc
  .array(fc.tuple(fc.stringMatching(/^[a-z-]{1,12}$/), fc.string({ maxLength: 40, unit: "grapheme" })), {
    maxLength: 20,
  })
  .map((pairs) => new Map(pairs));

/** Pieces of the same data frame put together again. */
function joined(frames: Iterable<SpdyFrame>): SpdyFrame[] {
  const out: SpdyFrame[] = [];
  let open = false;
  for (const one of frames) {
    const last = out.at(-1);
    if (open && one.kind === "data" && last?.kind === "data" && last.streamId === one.streamId) {
      out[out.length - 1] = { ...one, payload: Buffer.concat([last.payload, one.payload]) };
    } else out.push(one);
    open = one.kind === "data" && !one.fin;
  }
  return out;
}

test("SpdyFrameReader: what is written comes back, however the socket cuts it", () => {
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 12 }), fc.integer({ min: 1, max: 50 }), (frames, size) => {
      const wire = Buffer.concat(
        frames.flatMap((one) =>
          "type" in one
            ? [controlFrame(one.type, one.flags, one.payload)]
            : [dataHead(one.id, one.payload.length, true), one.payload],
        ),
      );
      const reader = new SpdyFrameReader();
      const got: SpdyFrame[] = [];
      for (let at = 0; at < wire.length; at += size) got.push(...reader.push(wire.subarray(at, at + size)));
      const expected = frames.map((one) =>
        "type" in one
          ? { kind: "control", type: one.type, flags: one.flags, payload: one.payload }
          : { kind: "data", streamId: one.id, payload: one.payload, fin: true },
      );
      assert.deepEqual(joined(got), expected);
    }),
  );
});

test("SpdyFrameReader: any bytes give frames or INVALID, nothing else", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (garbage) => {
      try {
        Array.from(new SpdyFrameReader().push(Buffer.from(garbage)));
      } catch (error) {
        assert.equal((error as { code?: string }).code, "INVALID");
      }
    }),
  );
});

test("SpdyFrameReader: a control frame beyond the limit is refused before it is buffered", () => {
  const head = controlFrame(1, 0).subarray(0, 8);
  head.writeUIntBE(1 << 20, 5, 3);
  assert.throws(() => Array.from(new SpdyFrameReader().push(head)), { code: "INVALID" });
});

test("HeaderWriter: a reader gets every block of a connection as it was", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(headers, { minLength: 1, maxLength: 5 }), async (blocks) => {
      const writer = new HeaderWriter();
      const reader = new HeaderReader();
      for (const block of blocks) assert.deepEqual(await reader.read(writer.write(block)), block);
      reader.close();
    }),
    { numRuns: 30 },
  );
});

test("HeaderReader: reads blocks that zlib compressed with the dictionary, one stream for all", async () => {
  const deflate = createDeflate({ dictionary: spdyDictionary });
  const reader = new HeaderReader();
  for (const type of ["error", "stdin", "stdout"]) {
    const wanted = new Map([["streamtype", type]]);
    const block = await new Promise<Buffer>((resolve) => {
      deflate.write(encodeHeaders(wanted));
      deflate.flush(constants.Z_SYNC_FLUSH, () => resolve(deflate.read() as Buffer));
    });
    assert.deepEqual(await reader.read(block), wanted);
  }
  reader.close();
  deflate.destroy();
});

test("HeaderReader: a block that inflates without end is refused", async () => {
  const deflate = createDeflate({ dictionary: spdyDictionary });
  const block = await new Promise<Buffer>((resolve) => {
    deflate.write(Buffer.alloc(10 << 20));
    deflate.flush(constants.Z_SYNC_FLUSH, () => resolve(deflate.read() as Buffer));
  });
  const reader = new HeaderReader();
  await assert.rejects(reader.read(block), { code: "INVALID", message: /more than 65536 bytes/ });
  await assert.rejects(reader.read(block), { code: "INVALID" });
  deflate.destroy();
});

test("decodeHeaders: any bytes give headers or INVALID", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (garbage) => {
      try {
        decodeHeaders(Buffer.from(garbage));
      } catch (error) {
        assert.equal((error as { code?: string }).code, "INVALID");
      }
    }),
  );
});
