/** Token buckets as the wire has them; `rateLimiter` makes them from human units. */

/** `size` tokens (bytes or operations), refilled every `refill_time` ms. In a PATCH, size 0 with refill 0 switches the bucket off. */
export type TokenBucketWire = {
  /** Tokens the bucket holds, and that one `refill_time` brings */
  readonly size: number;
  /** ms */
  readonly refill_time: number;
  /** Tokens to begin with, once, beyond `size`. @default 0 */
  readonly one_time_burst?: number;
};

/** A device's two buckets; in a PATCH an absent one is left as it is. */
export type RateLimiterWire = {
  /** Bytes */
  readonly bandwidth?: TokenBucketWire;
  /** Operations */
  readonly ops?: TokenBucketWire;
};
