import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type RateLimit, rateLimiter, tokenBucket } from "./rate-limit.ts";

test("rateLimiter: human units to token buckets", () => {
  const cases: readonly (readonly [RateLimit, object])[] = [
    [{}, {}],
    [{ bandwidth: "100 MiB/s" }, { bandwidth: { size: 10_485_760, refill_time: 100 } }],
    [{ bandwidth: "1GB/s", refillMs: 1000 }, { bandwidth: { size: 1_000_000_000, refill_time: 1000 } }],
    [{ bandwidth: "8 Mbit/s" }, { bandwidth: { size: 100_000, refill_time: 100 } }],
    [{ bandwidth: 5_000_000 }, { bandwidth: { size: 500_000, refill_time: 100 } }],
    [{ bandwidth: "1.5 KiB/s" }, { bandwidth: { size: 154, refill_time: 100 } }],
    [{ ops: 1000 }, { ops: { size: 100, refill_time: 100 } }],
    [{ ops: "15/s" }, { ops: { size: 15, refill_time: 1000 } }],
    [
      { bandwidth: "10 MiB/s", ops: 2000, burst: { bandwidth: "64 MiB", ops: 500 } },
      {
        bandwidth: { size: 1_048_576, refill_time: 100, one_time_burst: 67_108_864 },
        ops: { size: 200, refill_time: 100, one_time_burst: 500 },
      },
    ],
    [
      { bandwidth: "unlimited", ops: "unlimited" },
      { bandwidth: { size: 0, refill_time: 0 }, ops: { size: 0, refill_time: 0 } },
    ],
  ];
  for (const [limit, expected] of cases)
    assert.deepEqual(rateLimiter(limit), expected, JSON.stringify(limit));
  assert.deepEqual(tokenBucket("10 kB/s"), { size: 1000, refill_time: 100 });
});

test("rateLimiter: what cannot be read is refused by its name", () => {
  const cases: readonly (readonly [RateLimit, string])[] = [
    ...[
      "100",
      "100 MiB",
      "MiB/s",
      "100 mib/s",
      "-1 MiB/s",
      "1e3 MiB/s",
      "100 MiB/s ",
      "0 MiB/s",
      "1 toString/s",
    ].map((bandwidth) => [{ bandwidth }, "bandwidth"] as const),
    [{ bandwidth: Number.NaN }, "bandwidth"],
    [{ ops: 1.5 }, "ops"],
    [{ ops: "1000" }, "ops"],
    [{ ops: 0 }, "ops"],
    [{ bandwidth: "1 MiB/s", burst: { bandwidth: "1 MiB/s" } }, "burst.bandwidth"],
    [{ burst: { bandwidth: "1 MiB" } }, "burst.bandwidth"],
    [{ ops: "unlimited", burst: { ops: 1 } }, "burst.ops"],
    [{ ops: 1, refillMs: 0 }, "refillMs"],
  ];
  for (const [limit, field] of cases)
    assert.throws(() => rateLimiter(limit), { code: "FC_ARGUMENT", field }, JSON.stringify(limit));
});

test("rateLimiter: the rate is kept within 1 %, whatever it is", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 2 ** 40 }),
      fc.integer({ min: 1, max: 10_000 }),
      (bytes, refillMs) => {
        const { bandwidth } = rateLimiter({ bandwidth: bytes, refillMs });
        assert.ok(bandwidth && bandwidth.size > 0 && bandwidth.refill_time > 0);
        const rate = (bandwidth.size / bandwidth.refill_time) * 1000;
        assert.ok(Math.abs(rate - bytes) <= bytes / 100, `${bytes} became ${rate}`);
      },
    ),
  );
});
