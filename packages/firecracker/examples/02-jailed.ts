// A microVM in a jail: own root directory, user and cgroup. Needs root, the jailer and a statically
// linked Firecracker:   02-jailed.ts --jailer /usr/bin/jailer --vmm /usr/bin/firecracker
// (for a dynamically linked one: --library FILE for each of its libraries).
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { jailedSpawner } from "@tinderbox/firecracker";
import { boot, flags, guestConfiguration, launchOptions, main, workDirectory } from "./guest.ts";

await main(async () => {
  using work = workDirectory();
  const spawner = await jailedSpawner(
    {
      jailerBinary: flags.jailer,
      execFile: flags.vmm,
      id: "jailed",
      uid: 64_001,
      gid: 64_001,
      chrootBaseDir: work.path,
      cgroups: ["pids.max=64"],
      resourceLimits: { noFile: 512 },
    },
    async (jail) => {
      for (const library of flags.library) await jail.stage(library, { access: "ro", as: library });
    },
  );
  const { binary: _, apiSocket: __, ...options } = launchOptions(work.path, "jailed");
  {
    // Paths are the host's, here as everywhere: what the VMM needs is brought into the jail.
    await using guest = await boot({ ...options, spawner }, guestConfiguration(work.path));
    const status = readFileSync(`/proc/${guest.machine.identity.pid}/status`, "utf8");
    console.log(status.match(/^(Name|Uid|Gid):.*/gm)?.join("\n"));
    for (const file of spawner.jail.record.stagedFiles)
      console.log(`${file.method.padEnd(4)} ${file.hostPath} -> ${file.jailPath}`);
    console.log(await guest.shell.run("uname -sr"));
  }
  console.log(`jail and cgroup are gone: ${!existsSync(join(spawner.jail.record.directory))}`);
});
