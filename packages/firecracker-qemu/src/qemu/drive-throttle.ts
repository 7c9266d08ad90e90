// A drive's rate limiter by QEMU's throttling: `size` tokens in `refill_time` are the rate, a bucket of `size` is the burst. The
// one-time burst makes the bucket larger until that much has been moved.
import type { RateLimiter, TokenBucket } from "../schema/bodies.ts";
import { driveDevice } from "./command-line.ts";
import type { QmpClient } from "./qmp-client.ts";

type Limits = { readonly rate: number; readonly burst: number };

function limits(bucket: TokenBucket | undefined, withBurst: boolean): Limits {
  if (bucket === undefined) return { rate: 0, burst: 0 };
  const rate = Math.max(1, Math.round((bucket.size * 1000) / bucket.refill_time));
  const size = bucket.size + (withBurst ? (bucket.one_time_burst ?? 0) : 0);
  // QEMU's own bucket is a tenth of a second's; a larger one has to hold a second's at least.
  return { rate, burst: size >= rate ? size : 0 };
}

/** Sets what limits drive `id`; `withBurst` counts the one-time bursts in. */
export async function throttleDrive(
  qmp: QmpClient,
  id: string,
  limiter: RateLimiter | undefined,
  withBurst: boolean,
): Promise<void> {
  const bytes = limits(limiter?.bandwidth, withBurst);
  const ops = limits(limiter?.ops, withBurst);
  await qmp.execute("block_set_io_throttle", {
    id: driveDevice(id),
    ...{ bps: bytes.rate, bps_rd: 0, bps_wr: 0, iops: ops.rate, iops_rd: 0, iops_wr: 0 },
    ...(bytes.burst > 0 ? { bps_max: bytes.burst, bps_max_length: 1 } : {}),
    ...(ops.burst > 0 ? { iops_max: ops.burst, iops_max_length: 1 } : {}),
  });
}
