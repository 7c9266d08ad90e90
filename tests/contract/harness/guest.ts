// A guest that does what it is told over its serial console: the project's initramfs with a busybox shell as its init.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeNewcArchive } from "../../../packages/tinderbox/src/guest/newc-archive.ts";
import { loadStaticBusybox } from "../../../packages/tinderbox/src/guest/static-busybox.ts";
import { initrd, kernel } from "./binary.ts";
import { prepareFiles } from "./rows.ts";
import { Vmm } from "./vmm.ts";

const init = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
[ -f /etc/tinderbox/modules ] && while read -r module; do insmod "$module" 2>/dev/null; done </etc/tinderbox/modules
exec </dev/console >/dev/console 2>&1
stty -echo
echo contract-guest ready
while read -r number command; do
  echo "begin $number"
  eval "$command"
  echo "end $number $?"
done
`;

/** The boot arguments of every guest here; a test may add to them. */
export const bootArgs = "console=ttyS0 reboot=k panic=-1 quiet";

/** The guest's initramfs. */
async function makeInitramfs(): Promise<Buffer> {
  const cache = mkdtempSync("/tmp/contract-busybox-");
  try {
    const busybox = await loadStaticBusybox(cache);
    const own = writeNewcArchive([
      { kind: "file", path: "bin/busybox", mode: 0o755, content: busybox },
      { kind: "file", path: "init", mode: 0o755, content: Buffer.from(init) },
    ]);
    // Archives one after the other are unpacked one over the other.
    return Buffer.concat([readFileSync(initrd), own]);
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
}

/** What one command of the guest said, and its status. */
export type GuestResult = { readonly output: string; readonly status: number };

/** A booted guest. */
export class Guest {
  readonly vmm: Vmm;
  #commands = 0;

  private constructor(vmm: Vmm) {
    this.vmm = vmm;
  }

  /** A process with the guest's kernel set, not started; `prepare` makes more files. */
  static async prepare(args: readonly string[] = [], boot = bootArgs): Promise<Guest> {
    const vmm = await Vmm.start(args, prepareFiles);
    writeFileSync(join(vmm.directory, "initrd"), await makeInitramfs());
    await vmm.put("/boot-source", {
      kernel_image_path: kernel,
      initrd_path: join(vmm.directory, "initrd"),
      boot_args: boot,
    });
    return new Guest(vmm);
  }

  /** A process that starts from a config file with these keys, and the guest's kernel. */
  static async fromConfig(config: object, args: readonly string[] = []): Promise<Guest> {
    const image = await makeInitramfs();
    const vmm = await Vmm.start(args, (directory) => {
      prepareFiles(directory);
      const initrd_path = join(directory, "initrd");
      writeFileSync(initrd_path, image);
      const source = { kernel_image_path: kernel, initrd_path, boot_args: bootArgs };
      const file = join(directory, "config.json");
      const text = JSON.stringify({ "boot-source": source, ...config });
      writeFileSync(file, text.replaceAll("DIR", directory));
      return ["--config-file", file];
    });
    const guest = new Guest(vmm);
    await guest.ready();
    return guest;
  }

  /** Starts it and waits for its shell. */
  async start(): Promise<void> {
    await this.vmm.put("/actions", { action_type: "InstanceStart" });
    await this.ready();
  }

  /** Waits for the shell of a guest that was started. */
  async ready(): Promise<void> {
    await this.vmm.said(/contract-guest ready/);
  }

  /** Types a command and goes on. @returns its number, to ask for the result */
  type(command: string): number {
    this.#commands += 1;
    this.vmm.child.stdin?.write(`${this.#commands} ${command}\n`);
    return this.#commands;
  }

  /** Waits for the result of a command that was typed. */
  async result(number: number): Promise<GuestResult> {
    const pattern = new RegExp(`begin ${number}\\r?\\n([^]*?)end ${number} (\\d+)\\r?\\n`);
    const [, output = "", status] = await this.vmm.said(pattern);
    return { output: output.replaceAll("\r\n", "\n").trimEnd(), status: Number(status) };
  }

  /** Runs a command; its output, or an error when it fails. */
  async run(command: string): Promise<string> {
    const { output, status } = await this.result(this.type(command));
    if (status !== 0) throw new Error(`in the guest: ${command}: status ${status}: ${output}`);
    return output;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vmm.stop();
  }
}
