/** `tinderbox`: the command tree. Each command's work is in a file of its own, loaded only when it runs. */
import { Command, CommanderError } from "commander";
import { errorTable, TinderboxError } from "../base/errors.ts";
import type { GlobalOptions } from "./cri-clients.ts";
import type { ExecOptions } from "./exec.ts";
import type { GuestBuildOptions } from "./guest-build.ts";
import type { PullOptions } from "./images.ts";
import type { LogsOptions } from "./logs.ts";
import type { RunOptions } from "./pod-request.ts";

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
  tinderbox run alpine -- uname -a
  tinderbox guest build          the kernel and initramfs that microVMs boot
  tinderboxd &                   the daemon
  tinderbox pull alpine          an image
  tinderbox images
  tinderbox pods --json          for programs`,
  );

const globals = (): GlobalOptions => program.opts();

const imageArgument =
  "REGISTRY/NAME:TAG, NAME for docker.io/library/NAME:latest, oci:DIRECTORY[:TAG], oci-archive:FILE or docker-archive:FILE";

const repeated = (value: string, before: readonly string[]): readonly string[] => [...before, value];

program
  .command("run")
  .description("run a command in a container of its own pod; its exit status is this program's")
  .option("--runtime <handler>", "runtime handler: firecracker, crun, runc (default: the daemon's)")
  .option("-t, --tty", "give it a terminal", false)
  .option("-i, --interactive", "forward standard input", false)
  .option("-d, --detach", "print the pod's name and leave it running", false)
  .option("--name <name>", "name of the pod (default: run-XXXXXX)")
  .option("-e, --env <NAME=VALUE>", "an environment variable; again for more", repeated, [])
  .option("-w, --workdir <directory>", "working directory (default: the image's)")
  .option("-u, --user <user>", "NAME, UID or UID:GID (default: the image's)")
  .option("--pull <policy>", "missing, always or never", "missing")
  .option("--timing", "say how long it took, on standard error", false)
  .option("-q, --quiet", "no progress on standard error", false)
  .argument("<image>", imageArgument)
  .argument("[command...]", "arguments of the image's entrypoint, or the command; after --")
  .addHelpText(
    "after",
    `
Examples:
  tinderbox run alpine -- uname -a
  tinderbox run --runtime firecracker -it alpine -- sh
  echo hello | tinderbox run -i alpine -- cat
  tinderbox run -d --name web nginx && tinderbox logs -f web`,
  )
  .action(async (image: string, command: string[], options: RunOptions) =>
    (await import("./run.ts")).run(globals(), image, command, options),
  );
program
  .command("pull")
  .description("bring an image to the daemon, from a registry or from files")
  .option("--name <name>", "what an image from files shall be called (default: as it calls itself)")
  .argument("<image>", imageArgument)
  .addHelpText(
    "after",
    `
Examples:
  tinderbox pull alpine
  tinderbox pull oci:./layout:v1                an OCI image layout, a directory
  tinderbox pull oci-archive:image.tar          the same in a tar archive
  tinderbox pull docker-archive:saved.tar.gz    what docker save writes`,
  )
  .action(async (image: string, options: PullOptions) =>
    (await import("./images.ts")).pullImage(globals(), image, options),
  );
program
  .command("logs")
  .description("print a container's log")
  .option("-f, --follow", "go on as it grows, until the container ends", false)
  .option("--tail <lines>", "only the last lines")
  .option("--timestamps", "when each line was written", false)
  .argument("<container>", "id, unique beginning of one, or name; of a pod with one container, too")
  .action(async (container: string, options: LogsOptions) =>
    (await import("./logs.ts")).logs(globals(), container, options),
  );
program
  .command("exec")
  .description("run another process in a container; its exit status is this program's")
  .option("-t, --tty", "give it a terminal", false)
  .option("-i, --interactive", "forward standard input", false)
  .argument("<container>", "id, unique beginning of one, or name; of a pod with one container, too")
  .argument("<command...>", "after --")
  .action(async (container: string, command: string[], options: ExecOptions) =>
    (await import("./exec.ts")).exec(globals(), container, command, options),
  );
program
  .command("inspect")
  .description("all that is known of pods, containers or images, as JSON")
  .argument("<what...>", "ids, unique beginnings of them, or names")
  .action(async (what: string[]) => (await import("./inspect.ts")).inspect(globals(), what));
program
  .command("rmi")
  .description("remove images")
  .argument("<image...>", "names or ids")
  .action(async (images: string[]) => (await import("./images.ts")).removeImages(globals(), images));
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
  .command("doctor")
  .description("what this host has and lacks, and what would mend it")
  .action(async () => (await import("./doctor.ts")).doctor(globals()));
program
  .command("status")
  .description("the daemon: whether it can take pods, and what it has")
  .action(async () => (await import("./status.ts")).status(globals()));
program
  .command("completion")
  .description("a completion script")
  .argument("<shell>", "bash, zsh or fish")
  .action(async (shell: string) => {
    process.stdout.write((await import("./completion.ts")).completionScript(program, shell));
  });
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
