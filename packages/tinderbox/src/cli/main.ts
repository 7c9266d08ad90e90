/** `tinderbox`: the command tree. Each command's work is in a file of its own, loaded only when it runs. */
import { Command, CommanderError } from "commander";
import { errorTable, TinderboxError } from "../base/errors.ts";
import type { GlobalOptions } from "./cri-clients.ts";
import type { GuestBuildOptions } from "./guest-build.ts";

const program = new Command("tinderbox")
  .description("Pods as microVMs, or on the host: one engine, every door.")
  .option(
    "--socket <path>",
    "the daemon's socket",
    process.env["TINDERBOX_SOCKET"] ?? "/run/tinderbox/tinderbox.sock",
  )
  .option("--json", "one JSON document on standard output instead of text", false)
  .exitOverride()
  .showHelpAfterError("(tinderbox --help shows every command)")
  .addHelpText(
    "after",
    `
Examples:
  tinderbox guest build          the kernel and initramfs that microVMs boot
  tinderboxd &                   the daemon
  tinderbox pull alpine          an image
  tinderbox images
  tinderbox pods --json          for programs`,
  );

const globals = (): GlobalOptions => program.opts();

program
  .command("pull")
  .description("pull an image through the daemon")
  .argument("<image>", "REGISTRY/NAME:TAG, or NAME for docker.io/library/NAME:latest")
  .action(async (image: string) => (await import("./images.ts")).pullImage(globals(), image));
program
  .command("images")
  .description("list images")
  .action(async () => (await import("./images.ts")).listImages(globals()));
program
  .command("pods")
  .description("list pods")
  .action(async () => (await import("./pods.ts")).listPods(globals()));
program
  .command("ps")
  .description("list containers")
  .option("-a, --all", "also those that do not run", false)
  .action(async (options: { all: boolean }) =>
    (await import("./containers.ts")).listContainers(globals(), options.all),
  );
program
  .command("stop")
  .description("stop pods, and all that runs in them")
  .argument("<pod...>", "pod ids, or unique beginnings of them")
  .action(async (pods: string[]) => (await import("./pods.ts")).stopPods(globals(), pods));
program
  .command("rm")
  .description("remove pods; what still runs in them is stopped")
  .argument("<pod...>", "pod ids, or unique beginnings of them")
  .action(async (pods: string[]) => (await import("./pods.ts")).removePods(globals(), pods));

const guest = program.command("guest").description("the guest's kernel and initramfs");
guest
  .command("build")
  .description("make vmlinux and initramfs.img from the distribution's kernel, the agent and crun")
  .option("--output <directory>", "where to put them")
  .option("--kernel <file>", "a bzImage or vmlinux to use instead of the stock kernel")
  .option("--plain", "also initramfs-plain.img, for microVMs without an agent", false)
  .option("--rootfs <source>", "also rootfs.ext4: busybox, debian:SUITE, an image reference, or ./a.tar")
  .option("--rootfs-size <MiB>", "its size; without it, what the content needs and some")
  .option("--init <file>", "a program or script that becomes its /sbin/init")
  .option("--packages <a,b>", "Debian packages for debian:SUITE")
  .action(async (options: GuestBuildOptions) =>
    (await import("./guest-build.ts")).guestBuild(globals(), options),
  );
program
  .command("version")
  .description("print versions of client and daemon")
  .action(async () => (await import("./version.ts")).version(globals()));

try {
  await program.parseAsync();
} catch (thrown) {
  if (thrown instanceof CommanderError) {
    process.exitCode = thrown.exitCode === 0 ? 0 : 2;
  } else {
    const error = TinderboxError.from(thrown);
    process.stderr.write(
      `tinderbox: ${error.message}\n${error.hint === undefined ? "" : `hint: ${error.hint}\n`}`,
    );
    process.exitCode = errorTable[error.code].exit;
  }
}
