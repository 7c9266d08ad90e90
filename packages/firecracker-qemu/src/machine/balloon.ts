// The balloon of a running machine, by QMP.
import { Fault } from "../fault.ts";
import type { QmpClient } from "../qemu/qmp-client.ts";
import type { Balloon } from "../schema/bodies.ts";

const device = "/machine/peripheral/balloon0";
const mib = 1 << 20;
const pageBytes = 4096;

// Firecracker's names of the guest's statistics, by QEMU's
const statistics: readonly (readonly [qemu: string, firecracker: string])[] = [
  ["stat-swap-in", "swap_in"],
  ["stat-swap-out", "swap_out"],
  ["stat-major-faults", "major_faults"],
  ["stat-minor-faults", "minor_faults"],
  ["stat-free-memory", "free_memory"],
  ["stat-total-memory", "total_memory"],
  ["stat-available-memory", "available_memory"],
  ["stat-disk-caches", "disk_caches"],
  ["stat-htlb-pgalloc", "hugetlb_allocations"],
  ["stat-htlb-pgfail", "hugetlb_failures"],
];

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
}

/** The running machine's balloon. */
export class RunningBalloon {
  readonly #qmp: QmpClient;
  readonly #memoryMib: number;
  #config: Balloon;

  constructor(qmp: QmpClient, memoryMib: number, config: Balloon) {
    this.#qmp = qmp;
    this.#memoryMib = memoryMib;
    this.#config = config;
  }

  /** As GET /balloon shows it. */
  get config(): Balloon {
    return this.#config;
  }

  /** Sets what was configured, before the guest runs. */
  async begin(): Promise<void> {
    await this.setAmount(this.#config.amount_mib);
    if (this.#config.stats_polling_interval_s > 0)
      await this.#setInterval(this.#config.stats_polling_interval_s);
  }

  /** @throws {Fault} when it is more than the machine has */
  async setAmount(amount: number): Promise<void> {
    if (amount > this.#memoryMib)
      throw new Fault(
        `Balloon update error: Amount of pages requested is too large: \`amount_mib\` is ${amount}, the machine has ${this.#memoryMib} MiB.`,
      );
    // QEMU is told what is left. All of it cannot go: it would refuse 0.
    await this.#qmp.execute("balloon", { value: Math.max(1, (this.#memoryMib - amount) * mib) });
    this.#config = { ...this.#config, amount_mib: amount };
  }

  async #setInterval(seconds: number): Promise<void> {
    await this.#qmp.execute("qom-set", {
      path: device,
      property: "guest-stats-polling-interval",
      value: seconds,
    });
  }

  /** @throws {Fault} when that would turn statistics on or off */
  async setPollingInterval(seconds: number): Promise<void> {
    const was = this.#config.stats_polling_interval_s;
    if ((was === 0) !== (seconds === 0))
      throw new Fault(
        `Balloon update error: The statistics cannot be turned on or off after boot: \`stats_polling_interval_s\` is ${was}.`,
      );
    if (seconds > 0) await this.#setInterval(seconds);
    this.#config = { ...this.#config, stats_polling_interval_s: seconds };
  }

  /** As GET /balloon/statistics shows it; what the guest has not told is left out. @throws {Fault} when they are off */
  async statistics(): Promise<object> {
    if (this.#config.stats_polling_interval_s === 0)
      throw new Fault("Balloon statistics error: Statistics for the balloon device are not enabled.");
    const actual = Number(field(await this.#qmp.execute("query-balloon"), "actual"));
    const held = Math.max(0, this.#memoryMib * mib - actual);
    const told = field(
      await this.#qmp.execute("qom-get", { path: device, property: "guest-stats" }),
      "stats",
    );
    const shown: Record<string, number> = {
      target_pages: (this.#config.amount_mib * mib) / pageBytes,
      actual_pages: held / pageBytes,
      target_mib: this.#config.amount_mib,
      actual_mib: Math.floor(held / mib),
    };
    for (const [from, to] of statistics) {
      const value = field(told, from);
      // 2^64 - 1 is QEMU's "not told"; JSON's numbers round it.
      if (typeof value === "number" && value >= 0 && value < 2 ** 63) shown[to] = value;
    }
    return shown;
  }
}
