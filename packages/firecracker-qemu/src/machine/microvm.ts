// The microVM: not started, running or paused; what is allowed when, and the calls that reach the running QEMU.
import { closeSync, constants, openSync, readSync } from "node:fs";
import { Fault, reason } from "../fault.ts";
import { chooseAccelerator } from "../qemu/accelerator.ts";
import { hasReadOnlyDrives, qemuArguments } from "../qemu/command-line.ts";
import { DriveExchange, withUnnamedFile } from "../qemu/drive-exchange.ts";
import { type QemuProcess, startQemu } from "../qemu/qemu-process.ts";
import type { QmpEvent } from "../qemu/qmp-client.ts";
import { timeStampCounterKhz } from "../qemu/time-stamp-counter.ts";
import { startVsockBackend, type VsockBackend } from "../qemu/vsock-backend.ts";
import type { DrivePatch, NetworkInterfacePatch, Vsock } from "../schema/bodies.ts";
import { VmConfig } from "./vm-config.ts";

/** How the machine ended, and with which status the program shall. */
export type MachineEnd = { readonly exitCode: number; readonly why: string };

type State =
  | { readonly at: "not started" }
  | { readonly at: "started"; readonly qemu: QemuProcess; readonly drives: DriveExchange; isPaused: boolean };

const sector = 512;

function checkKernel(path: string): void {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    const magic = Buffer.alloc(4);
    readSync(fd, magic, 0, 4, 0);
    if (!magic.equals(Buffer.from([0x7f, 0x45, 0x4c, 0x46]))) {
      throw new Fault(
        `Start microvm error: Cannot load kernel due to invalid memory configuration or invalid kernel image: ${path} is not an ELF file (an uncompressed vmlinux)`,
      );
    }
  } finally {
    closeSync(fd);
  }
}

/** One machine; it is started at most once. */
export class Microvm {
  readonly config = new VmConfig();
  readonly #ended = Promise.withResolvers<MachineEnd>();
  #state: State = { at: "not started" };
  #vsock: VsockBackend | undefined;

  /** The end of a started machine. */
  get ended(): Promise<MachineEnd> {
    return this.#ended.promise;
  }

  /** As GET / shows it. */
  get state(): "Not started" | "Running" | "Paused" {
    if (this.#state.at === "not started") return "Not started";
    return this.#state.isPaused ? "Paused" : "Running";
  }

  requireNotStarted(): void {
    if (this.#state.at !== "not started")
      throw new Fault("The requested operation is not supported after starting the microVM.");
  }

  requireStarted(): void {
    this.#started();
  }

  #started(): Extract<State, { at: "started" }> {
    if (this.#state.at === "not started")
      throw new Fault("The requested operation is not supported before starting the microVM.");
    return this.#state;
  }

  /** Binds the vsock's socket at once; a second call takes the first one's place. */
  async setVsock(vsock: Vsock): Promise<void> {
    if (vsock.guest_cid < 3)
      throw new Fault(`Vsock config error: \`guest_cid\` is ${vsock.guest_cid}; it has to be at least 3.`);
    await this.#vsock?.stop();
    this.#vsock = undefined;
    this.config.vsock = undefined;
    this.#vsock = await startVsockBackend(vsock);
    this.config.vsock = vsock;
  }

  /** InstanceStart: when this resolves the guest's processors run. A machine that could not start can be started again. */
  async start(): Promise<void> {
    this.requireNotStarted();
    const source = this.config.bootSource;
    if (source === undefined)
      throw new Fault("Start microvm error: Cannot start microvm without kernel configuration.");
    checkKernel(source.kernel_image_path);
    try {
      const accelerator = await chooseAccelerator(source.kernel_image_path);
      const tscKhz = accelerator === "tcg" ? timeStampCounterKhz() : undefined;
      const args = qemuArguments(this.config, accelerator, this.#vsock?.vhostSocket, tscKhz);
      const onEvent = ({ name, data }: QmpEvent): void => {
        if (name === "SHUTDOWN" && data["reason"] === "guest-reset") void this.#end(0, "the guest reset");
      };
      const qemu = hasReadOnlyDrives(this.config)
        ? await withUnnamedFile((resizeFd) => startQemu(args, onEvent, { resizeFd }))
        : await startQemu(args, onEvent);
      this.#state = { at: "started", qemu, drives: new DriveExchange(qemu.qmp), isPaused: false };
      void qemu.ended.then(({ exitCode, signal, said }) =>
        this.#end(1, `QEMU ended (${signal ?? `status ${exitCode}`}) ${said}`.trim()),
      );
      await this.#vsock?.hide();
      void this.#vsock?.ended.then((why) => this.#end(1, why));
      await qemu.qmp.execute("cont");
    } catch (cause) {
      throw cause instanceof Fault ? cause : new Fault(`Start microvm error: ${reason(cause)}`, { cause });
    }
  }

  async #end(exitCode: number, why: string): Promise<void> {
    // The first cause counts: what follows from it (QEMU killed, vsock gone) is no news.
    this.#ended.resolve({ exitCode, why });
    await this.close();
  }

  /** Ends everything and removes the sockets that were made. */
  async close(): Promise<void> {
    if (this.#state.at === "started") await this.#state.qemu.kill();
    await this.#vsock?.stop();
  }

  async setPaused(isPaused: boolean): Promise<void> {
    const state = this.#started();
    await state.qemu.qmp.execute(isPaused ? "stop" : "cont");
    state.isPaused = isPaused;
  }

  patchInterface(pathId: string, patch: NetworkInterfacePatch): void {
    this.#started();
    if (pathId !== patch.iface_id)
      throw new Fault("The id from the path does not match the id from the body!");
    if (!this.config.interfaces.some(({ iface_id }) => iface_id === pathId))
      throw new Fault(`Network config error: there is no network interface with the id ${pathId}.`);
    if (patch.rx_rate_limiter !== undefined || patch.tx_rate_limiter !== undefined)
      throw new Fault("A rate limiter of a network interface is not supported by firecracker-qemu.");
  }

  /** Gives a drive of the running machine another file; the guest sees its new size. */
  async patchDrive(pathId: string, patch: DrivePatch): Promise<void> {
    const { drives } = this.#started();
    if (pathId !== patch.drive_id)
      throw new Fault("The id from the path does not match the id from the body!");
    const drive = this.config.drive(pathId);
    if (patch.rate_limiter?.bandwidth !== undefined || patch.rate_limiter?.ops !== undefined)
      throw new Fault("A rate limiter of a drive is not supported by firecracker-qemu.");
    const path = patch.path_on_host;
    if (path === undefined)
      throw new Fault(
        "Unable to patch the block device: neither `path_on_host` nor `rate_limiter` is given.",
      );
    const bytes = this.config.checkBacking(drive, path);
    try {
      await drives.exchange(drive, path, bytes - (bytes % sector));
    } catch (cause) {
      throw new Fault(`Unable to patch the block device: ${reason(cause)}`, { cause });
    }
    this.config.setBacking(pathId, path);
  }
}
