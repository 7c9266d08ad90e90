import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Fault } from "../fault.ts";
import { driveBody, machineConfigBody } from "./bodies.ts";
import { parseStrict } from "./strict-json.ts";

test("parseStrict: whatever comes is decoded or refused by a Fault, never otherwise", () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json(),
        fc.jsonValue().map((value) => JSON.stringify(value)),
      ),
      (source) => {
        for (const decode of [driveBody, machineConfigBody] as const) {
          try {
            parseStrict<unknown>(source, decode);
          } catch (thrown) {
            assert.ok(thrown instanceof Fault, String(thrown));
          }
        }
      },
    ),
    { numRuns: 2000 },
  );
});

test("parseStrict: what was valid comes back as it was", () => {
  const config = fc.record({
    vcpu_count: fc.integer({ min: 0, max: 255 }),
    mem_size_mib: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    smt: fc.boolean(),
    track_dirty_pages: fc.boolean(),
  });
  fc.assert(
    fc.property(config, (value) => {
      const { cpu_template: _, huge_pages, ...rest } = parseStrict(JSON.stringify(value), machineConfigBody);
      assert.deepEqual(rest, { ...value });
      assert.equal(huge_pages, "None");
    }),
  );
});

test("parseStrict: a key of Object's prototype is an unknown field", () => {
  assert.throws(
    () => parseStrict('{"__proto__":1,"drive_id":"a","is_root_device":false}', driveBody),
    /unknown field/,
  );
  assert.throws(
    () => parseStrict('{"constructor":1,"drive_id":"a","is_root_device":false}', driveBody),
    /unknown field/,
  );
});
