// Reads a VMM's metrics as typed records, the moment it writes them.
import { join } from "node:path";
import { launchMachine } from "@tinderbox/firecracker";
import { guestConfiguration, launchOptions, main, patience, Shell, workDirectory } from "./guest.ts";

await main(async () => {
  using work = workDirectory();
  const signal = patience();
  await using machine = await launchMachine({ ...launchOptions(work.path, "metrics"), signal });
  // A FIFO of the SDK's own, which never makes the VMM wait: records nobody reads are dropped, oldest first.
  await using metrics = await machine.openMetrics(join(work.path, "metrics"));
  await machine.configure(guestConfiguration(work.path));
  const running = await machine.start({ signal });
  using shell = await new Shell(running).ready();
  await shell.run("cat /proc/cpuinfo >/dev/null");

  for (const round of [1, 2]) {
    await running.api.flushMetrics();
    const record = await metrics.next({ signal });
    if (!record) throw new Error("the VMM has ended");
    console.log(`record ${round} of ${new Date(record.utc_timestamp_ms).toISOString()}`);
    console.log(`  calls before the start: ${JSON.stringify(record["put_api_requests"])}`);
    console.log(`  groups: ${Object.keys(record).slice(1).join(" ")}`);
  }
});
