// Boots one guest, takes a snapshot, and starts ten from it: each with its own vsock, all sharing one memory file.
import { once } from "node:events";
import { statSync } from "node:fs";
import { join } from "node:path";
import { restoreClones } from "@tinderbox/firecracker";
import { boot, flags, guestConfiguration, launchOptions, main, patience, workDirectory } from "./guest.ts";

await main(async () => {
  using work = workDirectory();
  const [statePath, memoryPath] = [join(work.path, "state"), join(work.path, "memory")];
  const vsock = { guest_cid: 3, uds_path: join(work.path, "v.sock") };
  {
    await using first = await boot(
      launchOptions(work.path, "first"),
      guestConfiguration(work.path, { vsock }),
    );
    await first.shell.run("echo seven >/tmp/number");
    (await first.machine.dialVsock(52, { signal: patience(), retry: {} })).destroy();
    await first.machine.snapshot({ statePath, memoryPath }, { signal: patience() });
    console.log(
      `snapshot: ${statSync(memoryPath).size >> 20} MiB of memory, ${statSync(statePath).size} bytes of state`,
    );
  }
  const begun = performance.now();
  const clones = await restoreClones({
    count: Number(flags.clones),
    snapshot: { statePath, memory: { file: memoryPath } },
    clone: (index) => ({
      ...launchOptions(work.path, `clone-${index}`),
      vsockPath: join(work.path, `v${index}.sock`),
    }),
    signal: patience(),
  });
  console.log(`${clones.length} clones in ${(performance.now() - begun).toFixed(0)} ms`);
  try {
    for (const [index, clone] of clones.entries()) {
      const stream = await clone.dialVsock(52, { signal: patience(), retry: {} });
      stream.write(`I am clone ${index}`);
      const [answer] = await clone.whileAlive(once(stream, "data"));
      console.log(`pid ${clone.identity.pid}: ${answer}`);
      stream.destroy();
    }
  } finally {
    await Promise.all(clones.map((clone) => clone.kill()));
  }
});
