/**
 * What the examples share: their flags, a small guest with a shell on its serial console, and how a refusal is shown.
 * The guest is your kernel and initramfs (those of `tinderbox guest build`) with busybox, guest/init.sh and
 * guest/vsock-echo.rs put behind; a kernel with virtio built in needs no initramfs of its own.
 */
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { parseArgs } from "node:util";
import {
  FirecrackerError,
  type LaunchOptions,
  launchMachine,
  type MachineConfiguration,
  type RunningMachine,
} from "@tinderbox/firecracker";

const root = join(import.meta.dirname, "../../..");

/** `--vmm --kernel --initrd --no-seccomp --expect-refusal`, each but the last two by FIRECRACKER_BIN, GUEST_KERNEL, GUEST_INITRD too; and an example's own. */
export const { values: flags } = parseArgs({
  options: {
    vmm: { type: "string", default: process.env["FIRECRACKER_BIN"] ?? join(root, "bin/firecracker-qemu") },
    kernel: { type: "string", default: process.env["GUEST_KERNEL"] ?? join(root, ".cache/guest/vmlinux") },
    initrd: {
      type: "string",
      default: process.env["GUEST_INITRD"] ?? join(root, ".cache/guest/initramfs.img"),
    },
    "no-seccomp": { type: "boolean", default: false },
    "expect-refusal": { type: "boolean", default: false },
    jailer: { type: "string", default: "jailer" },
    library: { type: "string", multiple: true, default: [] },
    clones: { type: "string", default: "10" },
    owner: { type: "string" },
  },
});

/** Each test of CI and each person is given as long as an emulated guest may take. */
export const patience = (): AbortSignal => AbortSignal.timeout(120_000);

/** A directory of its own, removed by `await using`. */
export function workDirectory(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "fc-example-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** A cpio archive (newc), as the kernel unpacks behind another one. */
function archive(files: readonly { name: string; content: Buffer }[]): Buffer {
  const pad = (length: number): Buffer => Buffer.alloc((4 - (length % 4)) % 4);
  const member = (name: string, mode: number, content: Buffer): Buffer => {
    const numbers = [0, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0];
    const head = `070701${numbers.map((number) => number.toString(16).padStart(8, "0")).join("")}${name}\0`;
    return Buffer.concat([Buffer.from(head), pad(head.length), content, pad(content.length)]);
  };
  const members = files.map(({ name, content }) => member(name, 0o100755, content));
  const directories = ["bin", "dev"].map((name) => member(name, 0o040755, Buffer.alloc(0)));
  return Buffer.concat([...directories, ...members, member("TRAILER!!!", 0, Buffer.alloc(0))]);
}

/** guest/vsock-echo.rs as a static program, compiled once. */
function echoProgram(): Buffer {
  const source = join(import.meta.dirname, "guest/vsock-echo.rs");
  const program = join(root, ".cache/examples/vsock-echo");
  if (!existsSync(program) || statSync(program).mtimeMs < statSync(source).mtimeMs) {
    mkdirSync(join(program, ".."), { recursive: true });
    const target = process.arch === "arm64" ? "aarch64" : "x86_64";
    const options = [
      "--edition",
      "2021",
      "-O",
      "-C",
      "target-feature=+crt-static",
      "-C",
      "panic=abort",
      "-C",
      "strip=symbols",
    ];
    const made = `${program}.${process.pid}`;
    execFileSync("rustc", [...options, "--target", `${target}-unknown-linux-gnu`, "-o", made, source], {
      stdio: "inherit",
    });
    renameSync(made, program);
  }
  return readFileSync(program);
}

/** The examples' guest; `more` is laid over it. Its initramfs is made in `directory`. */
export function guestConfiguration(
  directory: string,
  more: Partial<MachineConfiguration> = {},
): MachineConfiguration {
  const initrd = join(directory, "initramfs.img");
  const files = [
    { name: "bin/busybox", content: readFileSync("/bin/busybox") },
    { name: "bin/vsock-echo", content: echoProgram() },
    { name: "example-init", content: readFileSync(join(import.meta.dirname, "guest/init.sh")) },
  ];
  const own = readFileSync(flags.initrd);
  writeFileSync(initrd, Buffer.concat([own, Buffer.alloc((4 - (own.length % 4)) % 4), archive(files)]));
  return {
    "boot-source": {
      kernel_image_path: flags.kernel,
      initrd_path: initrd,
      boot_args:
        "console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd rdinit=/example-init",
    },
    "machine-config": { vcpu_count: 1, mem_size_mib: 192 },
    drives: [],
    ...more,
  };
}

/** How the examples start their VMM. */
export function launchOptions(
  directory: string,
  id: string,
): LaunchOptions & { binary: string; apiSocket: string } {
  const process_ = {
    serialInput: true,
    flags: { noSeccomp: flags["no-seccomp"], logLevel: "Error" as const },
  };
  return { binary: flags.vmm, apiSocket: join(directory, `${id}.sock`), id, ...process_ };
}

/** A shell in the guest, by its serial console. */
export class Shell {
  readonly #machine: RunningMachine;
  readonly #lines: Interface;
  readonly #next: AsyncIterator<string>;

  constructor(machine: RunningMachine) {
    if (!machine.stdout) throw new Error("the console goes elsewhere");
    this.#machine = machine;
    this.#lines = createInterface({ input: machine.stdout.stream() });
    this.#next = this.#lines[Symbol.asyncIterator]();
  }

  /** Resolves when the guest has booted. */
  async ready(): Promise<this> {
    await this.#machine.whileAlive(this.#until(/@ready$/));
    return this;
  }

  /** The output of a command in the guest. */
  async run(command: string): Promise<string> {
    this.#machine.serialInput?.write(`${command}\n`);
    return await this.#machine.whileAlive(this.#until(/@end \d+$/));
  }

  async #until(mark: RegExp): Promise<string> {
    const lines: string[] = [];
    for (;;) {
      const { value, done } = await this.#next.next();
      if (done) throw new Error(`the console ended: ${lines.join("\n")}`);
      const line = value.replace(/\r/g, "");
      // The last line of an output may have no end of its own.
      const rest = line.replace(mark, "");
      if (rest !== "") lines.push(rest);
      if (rest !== line) return lines.join("\n");
    }
  }

  /** Reads no further, so that nothing keeps the program. */
  [Symbol.dispose](): void {
    this.#lines.close();
  }
}

/** A booted guest with its shell. */
export async function boot(
  options: LaunchOptions,
  configuration: MachineConfiguration,
): Promise<{ machine: RunningMachine; shell: Shell } & AsyncDisposable> {
  const signal = patience();
  const machine = await launchMachine({ ...options, signal });
  try {
    await machine.configure(configuration, { signal });
    const running = await machine.start({ signal });
    const shell = await new Shell(running).ready();
    return {
      machine: running,
      shell,
      async [Symbol.asyncDispose]() {
        shell[Symbol.dispose]();
        await running.kill();
      },
    };
  } catch (cause) {
    await machine.kill();
    throw cause;
  }
}

/** Runs an example. With `--expect-refusal` it must end in an error of the SDK, which is shown. */
export async function main(example: () => Promise<void>): Promise<void> {
  try {
    await example();
  } catch (cause) {
    if (!flags["expect-refusal"] || !(cause instanceof FirecrackerError)) throw cause;
    console.log(`refused, as expected: ${cause.code} ${cause.message}`);
    return;
  }
  if (flags["expect-refusal"]) throw new Error("it was not refused");
}
