// Plugs a drive into a running guest and takes it out again. Needs Firecracker 1.16 and PCI (a preview there).
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { boot, guestConfiguration, launchOptions, main, workDirectory } from "./guest.ts";

await main(async () => {
  using work = workDirectory();
  const image = join(work.path, "data.img");
  const content = Buffer.alloc(1 << 20);
  content.write("written on the host\n");
  writeFileSync(image, content);

  const options = launchOptions(work.path, "plug");
  await using guest = await boot(
    { ...options, flags: { ...options.flags, enablePci: true } },
    guestConfiguration(work.path),
  );
  const { machine, shell } = guest;
  const drives = async (): Promise<string> => (await shell.run("ls /sys/block | grep vd")).trim() || "none";
  console.log(`drives in the guest: ${await drives()}`);

  await machine.api.putDrive({
    drive_id: "data",
    path_on_host: image,
    is_root_device: false,
    is_read_only: true,
  });
  // The guest is not told of a new device; it has to look.
  await shell.run("echo 1 >/sys/bus/pci/rescan; until [ -b /dev/vda ]; do usleep 10000; done");
  console.log(`plugged in: ${await drives()}, and it says: ${await shell.run("head -n 1 /dev/vda")}`);

  // First the guest lets go of it.
  await shell.run("echo 1 >$(readlink -f /sys/block/vda/device)/../remove");
  await machine.api.deleteDrive("data");
  console.log(`taken out: ${await drives()}`);
});
