// The microVM: not started, running or paused; what is allowed when, and the calls that reach the running QEMU.
import { existsSync } from "node:fs";
import { Fault, reason } from "../fault.ts";
import { chooseAccelerator } from "../qemu/accelerator.ts";
import { hasReadOnlyDrives, qemuArguments } from "../qemu/command-line.ts";
import { DriveExchange, withUnnamedFile } from "../qemu/drive-exchange.ts";
import { type QemuProcess, startQemu } from "../qemu/qemu-process.ts";
import type { QmpEvent } from "../qemu/qmp-client.ts";
import { timeStampCounterKhz } from "../qemu/time-stamp-counter.ts";
import { startVsockBackend, type VsockBackend } from "../qemu/vsock-backend.ts";
import type {
  DrivePatch,
  HintingStart,
  NetworkInterfacePatch,
  PmemPatch,
  SnapshotCreate,
  SnapshotLoad,
  Vsock,
} from "../schema/bodies.ts";
import { checkStart } from "./start-check.ts";
import { VmConfig } from "./vm-config.ts";

/** How the machine ended, and with which status the program shall. */
export type MachineEnd = { readonly exitCode: number; readonly why: string };

type State =
  | { readonly at: "not started" }
  | { readonly at: "started"; readonly qemu: QemuProcess; readonly drives: DriveExchange; isPaused: boolean };

const sector = 512;

/** One machine; it is started at most once. */
export class Microvm {
  readonly config = new VmConfig();
  readonly #ended = Promise.withResolvers<MachineEnd>();
  #state: State = { at: "not started" };
  #vsock: VsockBackend | undefined;
  /** Something was set, or tried to be, that only a boot needs: then no snapshot is loaded any more. */
  #isForBoot = false;

  /** The end of a started machine. */
  get ended(): Promise<MachineEnd> {
    return this.#ended.promise;
  }

  /** As GET / shows it. */
  get state(): "Not started" | "Running" | "Paused" {
    if (this.#state.at === "not started") return "Not started";
    return this.#state.isPaused ? "Paused" : "Running";
  }

  /** A setting of a machine that shall boot. */
  configure(set: (config: VmConfig) => void): void {
    this.#isForBoot = true;
    set(this.config);
  }

  /** A device: put before the start, or plugged in after it, which needs PCI. */
  plug(put: (config: VmConfig) => void): void {
    if (this.#state.at === "started") throw new Fault("PCI is not enabled: no device can be plugged in.");
    this.configure(put);
  }

  /** Takes a device out of the running machine, which needs PCI. */
  unplug(): never {
    throw new Fault("PCI is not enabled: no device can be unplugged.");
  }

  #started(): Extract<State, { at: "started" }> {
    if (this.#state.at === "not started")
      throw new Fault("The requested operation is not supported before starting the microVM.");
    return this.#state;
  }

  /** Binds the vsock's socket at once; a second call removes the first one's, even if it fails itself. */
  async setVsock(vsock: Vsock): Promise<void> {
    this.#isForBoot = true;
    const old = this.config.vsock?.uds_path;
    const isLost = old !== undefined && !existsSync(old);
    await this.#vsock?.stop();
    this.#vsock = undefined;
    this.config.vsock = undefined;
    if (isLost)
      throw new Fault(
        `Vsock config error: Cannot create backend for vsock device: the socket of the one before, ${old}: No such file or directory (os error 2)`,
      );
    this.#vsock = await startVsockBackend(vsock);
    this.config.vsock = vsock;
  }

  /** InstanceStart: when this resolves the guest's processors run. A machine that could not start can be started again. */
  async start(): Promise<void> {
    const source = this.config.bootSource;
    if (source === undefined)
      throw new Fault("Start microvm error: Cannot start microvm without kernel configuration.");
    checkStart(this.config, source);
    try {
      const accelerator = await chooseAccelerator(source.kernel_image_path);
      const tscKhz = accelerator === "tcg" ? timeStampCounterKhz() : undefined;
      const args = qemuArguments(this.config, accelerator, this.#vsock?.vhostSocket, tscKhz);
      const onEvent = ({ name, data }: QmpEvent): void => {
        if (name === "SHUTDOWN" && data["reason"] === "guest-reset") void this.#end(0, "the guest reset");
      };
      const tapFds = this.config.interfaces.map(({ tap }) => tap.fd);
      const qemu = hasReadOnlyDrives(this.config)
        ? await withUnnamedFile((resizeFd) => startQemu(args, onEvent, { resizeFd, tapFds }))
        : await startQemu(args, onEvent, { tapFds });
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

  patchInterface(patch: NetworkInterfacePatch): void {
    this.#started();
    if (!this.config.interfaces.some(({ iface_id }) => iface_id === patch.iface_id))
      throw new Fault(
        `Network config error: Unable to update the net device: Device not found: there is no interface ${patch.iface_id}.`,
      );
    if (patch.rx_rate_limiter !== undefined || patch.tx_rate_limiter !== undefined)
      throw new Fault("A rate limiter of a network interface is not supported by firecracker-qemu.");
  }

  /** No pmem device can be there; only a limiter would have to be found one. */
  patchPmem(patch: PmemPatch): void {
    if (patch.rate_limiter !== undefined)
      throw new Fault(
        `Pmem config error: Unable to patch the pmem device: Device not found: there is no pmem device ${patch.id}.`,
      );
  }

  /** Gives a drive of the running machine another file; the guest sees its new size. */
  async patchDrive(patch: DrivePatch): Promise<void> {
    const { drives } = this.#started();
    const { drive_id: id, path_on_host: path, rate_limiter } = patch;
    const drive = this.config.drive(id);
    const refuse = (why: string, cause?: unknown): Fault =>
      new Fault(`Drive config error: Unable to patch the block device: ${why}`, { cause });
    if (path === undefined && rate_limiter === undefined)
      throw refuse(
        "Invalid block backend: only a vhost-user drive is patched without `path_on_host` and `rate_limiter`.",
      );
    if (rate_limiter?.bandwidth !== undefined || rate_limiter?.ops !== undefined)
      throw new Fault("A rate limiter of a drive is not supported by firecracker-qemu.");
    if (path === undefined) return;
    const bytes = this.config.checkBacking(drive, path);
    try {
      await drives.exchange(drive, path, bytes - (bytes % sector));
    } catch (cause) {
      throw refuse(reason(cause), cause);
    }
    this.config.setBacking(id, path);
  }

  #deviceNotFound(what: string, error: string): Fault {
    return new Fault(`${error}: Device not found: the machine has no ${what}.`);
  }

  /** GET /balloon */
  balloon(): object {
    if (this.config.balloon !== undefined) return this.config.balloon;
    if (this.#state.at === "not started") throw new Fault("Balloon config error: No balloon device found.");
    throw this.#deviceNotFound("balloon", "Internal VMM error");
  }

  balloonStatistics(): object {
    throw this.#deviceNotFound("balloon", "Internal VMM error");
  }

  updateBalloonStatistics(_seconds: number): void {
    throw this.#deviceNotFound("balloon", "Balloon update error");
  }

  updateBalloon(_mib: number): void {
    throw this.#deviceNotFound("balloon", "Balloon update error");
  }

  startHinting(_start: HintingStart): void {
    throw this.#deviceNotFound("balloon", "Balloon update error");
  }

  hintingStatus(): object {
    throw this.#deviceNotFound("balloon", "Balloon update error");
  }

  stopHinting(): void {
    throw this.#deviceNotFound("balloon", "Balloon update error");
  }

  memoryHotplugStatus(): object {
    throw this.#deviceNotFound("hotpluggable memory", "Internal VMM error");
  }

  updateMemoryHotplug(_mib: number): void {
    throw this.#deviceNotFound("hotpluggable memory", "Memory hotplug update error");
  }

  sendCtrlAltDel(): void {
    throw new Fault(
      "SendCtrlAltDel is not supported by firecracker-qemu: the machine has no keyboard controller.",
    );
  }

  createSnapshot(_snapshot: SnapshotCreate): void {
    throw new Fault("A snapshot is not supported by firecracker-qemu.");
  }

  /** A machine whose loading has failed cannot be used: the program ends. */
  loadSnapshot(_snapshot: SnapshotLoad): void {
    if (this.#isForBoot)
      throw new Fault(
        "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.",
      );
    const fault = new Fault("Load snapshot error: A snapshot is not supported by firecracker-qemu.");
    this.#ended.resolve({ exitCode: 1, why: `Failed to build MicroVM: ${fault.message}` });
    throw fault;
  }
}
