// The rate limiters of a running machine's drives, and their one-time bursts: QEMU has none, so its bucket is larger until that much
// has been moved.
import { driveDevice } from "../qemu/command-line.ts";
import { throttleDrive } from "../qemu/drive-throttle.ts";
import type { QmpClient } from "../qemu/qmp-client.ts";
import type { RateLimiter } from "../schema/bodies.ts";
import { effectiveLimiter } from "./rate-limiter.ts";

/** ms between looks at how much of a burst is spent */
const lookEveryMs = 500;

type Moved = { readonly bytes: number; readonly ops: number };

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
}

/** The limiters by drive. */
export class DriveLimits {
  readonly #qmp: QmpClient;
  readonly #timers = new Map<string, NodeJS.Timeout>();

  constructor(qmp: QmpClient) {
    this.#qmp = qmp;
  }

  /** Limits drive `id` from now on; undefined is no limit. */
  async set(id: string, wanted: RateLimiter | undefined): Promise<void> {
    const limiter = effectiveLimiter(wanted);
    clearInterval(this.#timers.get(id));
    const burst: Moved = {
      bytes: limiter?.bandwidth?.one_time_burst ?? 0,
      ops: limiter?.ops?.one_time_burst ?? 0,
    };
    const hasBurst = burst.bytes > 0 || burst.ops > 0;
    await throttleDrive(this.#qmp, id, limiter, hasBurst);
    if (!hasBurst) return;
    const before = await this.#moved(id);
    const look = async (): Promise<void> => {
      const now = await this.#moved(id);
      const left =
        (burst.bytes > 0 && now.bytes - before.bytes < burst.bytes) ||
        (burst.ops > 0 && now.ops - before.ops < burst.ops);
      if (left) return;
      clearInterval(timer);
      await throttleDrive(this.#qmp, id, limiter, false);
    };
    // A machine that has ended needs no limit.
    const timer = setInterval(() => void look().catch(() => clearInterval(timer)), lookEveryMs);
    timer.unref();
    this.#timers.set(id, timer);
  }

  async #moved(id: string): Promise<Moved> {
    const all = await this.#qmp.execute("query-blockstats");
    const own: unknown = Array.isArray(all)
      ? all.find(
          (one: unknown) =>
            String(field(one, "qdev")).includes(`/${driveDevice(id)}/`) ||
            String(field(one, "qdev")).endsWith(`/${driveDevice(id)}`),
        )
      : undefined;
    const sum = (...names: readonly string[]): number =>
      names.reduce((total, name) => total + Number(field(field(own, "stats"), name) ?? 0), 0);
    return { bytes: sum("rd_bytes", "wr_bytes"), ops: sum("rd_operations", "wr_operations") };
  }
}
