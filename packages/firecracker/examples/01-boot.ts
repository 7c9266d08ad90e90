// Boots a microVM, asks its shell a few things, and lets the guest end it. The whole life of a machine.
import { boot, flags, guestConfiguration, launchOptions, main, workDirectory } from "./guest.ts";

await main(async () => {
  using work = workDirectory();
  const begun = performance.now();
  await using guest = await boot(launchOptions(work.path, "boot"), guestConfiguration(work.path));
  const { machine, shell } = guest;
  console.log(
    `${flags.vmm}: pid ${machine.identity.pid}, up in ${(performance.now() - begun).toFixed(0)} ms`,
  );
  console.log(await shell.run("uname -a"));
  console.log(await shell.run("free -m | head -n 2"));
  const { state, vmm_version } = await machine.api.instanceInfo();
  console.log(`the API says: ${state}, version ${vmm_version}`);

  // The guest is asked first. On x86 it ends its VMM by a reboot; SIGTERM and SIGKILL would follow.
  const ended = await machine.shutdown({
    guestMs: 30_000,
    askGuest: async () => void machine.serialInput?.write("reboot -f\n"),
  });
  console.log(`the guest ended by itself: exit status ${ended.exitCode}`);
});
