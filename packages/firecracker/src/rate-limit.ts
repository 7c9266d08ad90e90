/** Rate limits in human units, as token buckets. */
import { FirecrackerArgumentError } from "./errors.ts";
import type { RateLimiterWire, TokenBucketWire } from "./rate-limit-wire.ts";

/** `100 MiB/s`, `1 GB/s`, `512 KiB/s`, `10 Mbit/s`; a number is bytes a second */
export type Bandwidth = string | number;
/** `64 MiB`, `1 GB`; a number is bytes */
export type ByteAmount = string | number;

/** A limit for a drive, an interface, pmem or the entropy device. */
export type RateLimit = {
  /** "unlimited" takes a limit back in a PATCH */
  readonly bandwidth?: Bandwidth | "unlimited";
  /** Operations a second, or `1000/s`; "unlimited" takes a limit back in a PATCH */
  readonly ops?: number | string;
  /** What may go beyond the rate, once in the device's life. @default nothing */
  readonly burst?: {
    /** Needs a limit in `bandwidth` */
    readonly bandwidth?: ByteAmount;
    /** Needs a limit in `ops` */
    readonly ops?: number;
  };
  /** ms that one bucket full lasts: a short one is smooth, a long one lets more through at once. @default 100 */
  readonly refillMs?: number;
};

const units: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  bit: 1 / 8,
  kbit: 1e3 / 8,
  Mbit: 1e6 / 8,
  Gbit: 1e9 / 8,
};

function amount(field: string, value: string | number, suffix: "" | "/s"): number {
  if (typeof value === "number") {
    if (!Number.isFinite(value) || value <= 0)
      throw new FirecrackerArgumentError(field, `${value} is not above 0`);
    return value;
  }
  const match = /^(\d+(?:\.\d+)?) ?([A-Za-z]+)(\/s)?$/.exec(value);
  const unit = match?.[2] !== undefined && Object.hasOwn(units, match[2]) ? units[match[2]] : undefined;
  if (unit === undefined || (match?.[3] ?? "") !== suffix) {
    throw new FirecrackerArgumentError(
      field,
      `${JSON.stringify(value)} is not a number and a unit (${Object.keys(units).join(", ")})${suffix === "" ? "" : ` and "${suffix}"`}`,
    );
  }
  return amount(field, Number(match?.[1]) * unit, suffix);
}

function operations(value: string | number): number {
  const perSecond = typeof value === "number" ? value : Number(/^(\d+)\/s$/.exec(value)?.[1] ?? Number.NaN);
  if (!Number.isInteger(perSecond) || perSecond <= 0)
    throw new FirecrackerArgumentError(
      "ops",
      `${JSON.stringify(value)} is not a whole number above 0, or such a number and "/s"`,
    );
  return perSecond;
}

/** The smallest bucket that keeps the rate: a refill brings at least one token. */
function bucket(perSecond: number, refillMs: number, burst: number | undefined): TokenBucketWire {
  const perRefill = (perSecond * refillMs) / 1000;
  const [size, refill_time] =
    perRefill >= 100
      ? [Math.round(perRefill), refillMs]
      : // So few tokens that rounding would change the rate: a second, or as long as one token takes.
        perSecond >= 1
        ? [Math.round(perSecond), 1000]
        : [1, Math.round(1000 / perSecond)];
  return { size, refill_time, ...(burst !== undefined && { one_time_burst: Math.round(burst) }) };
}

const switchedOff: TokenBucketWire = { size: 0, refill_time: 0 };

/**
 * Token buckets for a limit; what is not named is not limited (in a PATCH: stays as it is).
 * @example rateLimiter({ bandwidth: "100 MiB/s", ops: 1000, burst: { bandwidth: "64 MiB" } })
 * @throws {FirecrackerArgumentError} FC_ARGUMENT naming what cannot be read
 */
export function rateLimiter(limit: RateLimit): RateLimiterWire {
  const { bandwidth, ops, burst, refillMs = 100 } = limit;
  if (!Number.isInteger(refillMs) || refillMs < 1 || refillMs > 3_600_000)
    throw new FirecrackerArgumentError("refillMs", `${refillMs} is not within 1..3600000`);
  const fewest = (field: string, value: number | string | undefined): void => {
    if (value === undefined || value === "unlimited")
      throw new FirecrackerArgumentError(`burst.${field}`, `a burst needs a limit in ${field}`);
  };
  if (burst?.bandwidth !== undefined) fewest("bandwidth", bandwidth);
  if (burst?.ops !== undefined) {
    fewest("ops", ops);
    operations(burst.ops);
  }
  return {
    ...(bandwidth !== undefined && {
      bandwidth:
        bandwidth === "unlimited"
          ? switchedOff
          : bucket(
              amount("bandwidth", bandwidth, "/s"),
              refillMs,
              burst?.bandwidth === undefined ? undefined : amount("burst.bandwidth", burst.bandwidth, ""),
            ),
    }),
    ...(ops !== undefined && {
      ops: ops === "unlimited" ? switchedOff : bucket(operations(ops), refillMs, burst?.ops),
    }),
  };
}

/** A bucket for the serial device, which limits bytes alone. @throws {FirecrackerArgumentError} FC_ARGUMENT */
export function tokenBucket(bandwidth: Bandwidth, refillMs = 100): TokenBucketWire {
  return rateLimiter({ bandwidth, refillMs }).bandwidth ?? switchedOff;
}
