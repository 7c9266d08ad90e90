// Takes memory back from a running guest, and gives it again.
import { setTimeout as delay } from "node:timers/promises";
import type { BalloonStatisticsWire } from "@tinderbox/firecracker";
import { boot, guestConfiguration, launchOptions, main, patience, workDirectory } from "./guest.ts";

await main(async () => {
  using work = workDirectory();
  const balloon = { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 1 };
  await using guest = await boot(
    launchOptions(work.path, "balloon"),
    guestConfiguration(work.path, { balloon, "machine-config": { vcpu_count: 1, mem_size_mib: 256 } }),
  );
  const { machine, shell } = guest;
  const free = async (): Promise<string> => (await shell.run("free -m | awk '/^Mem/ { print $4 }'")).trim();

  /** The guest gives pages when it gets to it; its statistics say how far it is. */
  async function inflateTo(amountMib: number): Promise<BalloonStatisticsWire> {
    const signal = patience();
    await machine.api.patchBalloon({ amount_mib: amountMib });
    for (;;) {
      const statistics = await machine.api.balloonStatistics({ signal });
      if (statistics.actual_mib === amountMib) return statistics;
      await delay(100, undefined, { signal });
    }
  }

  console.log(`free in the guest: ${await free()} MiB`);
  const { actual_mib, target_pages } = await inflateTo(96);
  console.log(`balloon of ${actual_mib} MiB (${target_pages} pages): ${await free()} MiB free`);
  await inflateTo(0);
  console.log(`balloon empty: ${await free()} MiB free`);
});
