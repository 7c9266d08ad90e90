// Rate limiters as they take effect: a bucket without size or time limits nothing.
import type { RateLimiter, TokenBucket } from "../schema/bodies.ts";

/** ms; a longer refill time overflows Firecracker's nanoseconds, and then it limits nothing */
const maxRefillMs = Number((1n << 64n) / 1_000_000n);

/** The bucket, or undefined when it limits nothing. */
export function effectiveBucket(bucket: TokenBucket | undefined): TokenBucket | undefined {
  if (bucket === undefined || bucket.size === 0 || bucket.refill_time === 0) return undefined;
  return bucket.refill_time > maxRefillMs ? undefined : bucket;
}

/** The limiter with its effective buckets, or undefined when it limits nothing. */
export function effectiveLimiter(limiter: RateLimiter | undefined): RateLimiter | undefined {
  const [bandwidth, ops] = [effectiveBucket(limiter?.bandwidth), effectiveBucket(limiter?.ops)];
  return bandwidth === undefined && ops === undefined ? undefined : { bandwidth, ops };
}

/** `limiter` after a PATCH: a bucket that is not given stays, one of size or time 0 goes. */
export function patchedLimiter(
  limiter: RateLimiter | undefined,
  patch: RateLimiter | undefined,
): RateLimiter | undefined {
  return effectiveLimiter({
    bandwidth: patch?.bandwidth ?? limiter?.bandwidth,
    ops: patch?.ops ?? limiter?.ops,
  });
}
