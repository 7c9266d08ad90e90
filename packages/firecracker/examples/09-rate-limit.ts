// Limits a drive to 2 MiB/s, then takes the limit back while the guest runs.
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { rateLimiter } from "@tinderbox/firecracker";
import { boot, guestConfiguration, launchOptions, main, workDirectory } from "./guest.ts";

await main(async () => {
  using work = workDirectory();
  const image = join(work.path, "disk.img");
  writeFileSync(image, "");
  truncateSync(image, 64 << 20);
  const drive = {
    drive_id: "data",
    path_on_host: image,
    is_root_device: false,
    is_read_only: true,
    rate_limiter: rateLimiter({ bandwidth: "2 MiB/s" }),
  };
  await using guest = await boot(
    launchOptions(work.path, "limit"),
    guestConfiguration(work.path, { drives: [drive] }),
  );
  const { machine, shell } = guest;

  /** Seconds that reading 4 MiB past the page cache takes. */
  async function read(skipMib: number): Promise<number> {
    const begun = performance.now();
    const said = await shell.run(`dd if=/dev/vda of=/dev/null bs=1M count=4 skip=${skipMib} && echo whole`);
    if (!said.endsWith("whole")) throw new Error(said);
    return (performance.now() - begun) / 1000;
  }

  const limited = await read(0);
  console.log(`4 MiB at 2 MiB/s: ${limited.toFixed(2)} s`);
  await machine.api.patchDrive({ drive_id: "data", rate_limiter: rateLimiter({ bandwidth: "unlimited" }) });
  console.log(`4 MiB without a limit: ${(await read(8)).toFixed(2)} s`);
  console.log(`the limit was ${limited > 1 ? "felt" : "not felt"}`);
});
