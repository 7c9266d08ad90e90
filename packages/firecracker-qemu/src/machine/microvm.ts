// The microVM: not started, running or paused; what is allowed when, and the calls that reach the running QEMU.
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import type { MmdsStore } from "../api/mmds-store.ts";
import { Fault, reason } from "../fault.ts";
import { chooseAccelerator } from "../qemu/accelerator.ts";
import type { Accelerator } from "../qemu/command-line.ts";
import { DeviceHost } from "../qemu/device-host.ts";
import { isKvmShared } from "../qemu/qemu-user.ts";
import type { QmpEvent } from "../qemu/qmp-client.ts";
import { timeStampCounterKhz } from "../qemu/time-stamp-counter.ts";
import type {
  DrivePatch,
  HintingStart,
  NetworkInterfacePatch,
  PmemPatch,
  SnapshotCreate,
  SnapshotLoad,
  Vsock,
} from "../schema/bodies.ts";
import type { RunningBalloon } from "./balloon.ts";
import { readCounters } from "./machine-counters.ts";
import { MetadataService } from "./metadata-service.ts";
import type { Observations } from "./observations.ts";
import { patchedLimiter } from "./rate-limiter.ts";
import { type Beginning, RunningMachine } from "./running-machine.ts";
import { applySavedConfig } from "./saved-config.ts";
import {
  overriddenVsock,
  readSnapshotFiles,
  type SavedState,
  saveMachine,
  tapOverrides,
  writeSnapshotFiles,
} from "./snapshot.ts";
import { checkStart } from "./start-check.ts";
import { VmConfig } from "./vm-config.ts";
import { bindVsock } from "./vsock-socket.ts";

/** How the machine ended, and with which status the program shall. */
export type MachineEnd = { readonly exitCode: number; readonly why: string };

type State =
  | { readonly at: "not started" }
  | { readonly at: "started"; readonly machine: RunningMachine; isPaused: boolean };

/** One machine; it is started at most once. */
export class Microvm {
  readonly config = new VmConfig();
  readonly #label: string;
  readonly #mmds: MmdsStore;
  readonly #observations: Observations;
  readonly #ended = Promise.withResolvers<MachineEnd>();
  #state: State = { at: "not started" };
  #devices: DeviceHost | undefined;
  /** Where the vsock device's backend waits for QEMU */
  #vsockSocket: string | undefined;
  #metadata: MetadataService | undefined;
  #accelerator: Accelerator = "tcg";
  #savedState: SavedState | undefined;
  /** The first cause counts: what follows from it (QEMU killed, devices gone) is no news. */
  #isEnding = false;
  /** Something was set, or tried to be, that only a boot needs: then no snapshot is loaded any more. */
  #isForBoot = false;

  /** `label` tells people which machine a process of its is for. */
  constructor(label: string, mmds: MmdsStore, observations: Observations) {
    this.#label = label;
    this.#mmds = mmds;
    this.#observations = observations;
    observations.source = {
      drives: () => this.config.drives.map(({ drive_id }) => drive_id),
      interfaces: () => this.config.interfaces.map(({ iface_id }) => iface_id),
      read: async () => {
        if (this.#state.at === "not started" || this.#devices === undefined) return new Map();
        return await readCounters(this.config, this.#state.machine.qemu.qmp, this.#devices);
      },
    };
  }

  /** The program that has the devices, started when it is first needed. */
  get #deviceHost(): DeviceHost {
    if (this.#devices === undefined) {
      this.#devices = new DeviceHost(this.#label, (event) => this.#onDeviceEvent(event));
      void this.#devices.ended.then((why) => this.#end(1, why));
    }
    return this.#devices;
  }

  /** Lets `path`, our own socket, be removed even if this process is killed. */
  async own(path: string): Promise<void> {
    await this.#deviceHost.request("own", { path });
  }

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
    this.config.vsock = undefined;
    this.#vsockSocket = undefined;
    if (old !== undefined) await this.#deviceHost.request("vsock-close");
    if (isLost)
      throw new Fault(
        `Vsock config error: Cannot create backend for vsock device: the socket of the one before, ${old}: No such file or directory (os error 2)`,
      );
    this.#vsockSocket = await bindVsock(this.#deviceHost, vsock);
    this.config.vsock = vsock;
  }

  /** InstanceStart: when this resolves the guest's processors run. A machine that could not start can be started again. */
  async start(): Promise<void> {
    const source = this.config.bootSource;
    if (source === undefined)
      throw new Fault("Start microvm error: Cannot start microvm without kernel configuration.");
    checkStart(this.config, source);
    try {
      const { kernel_image_path: kernel } = source;
      // It may have been removed since it was opened.
      const path = existsSync(kernel) ? kernel : `/proc/${process.pid}/fd/${this.config.files.get("kernel")}`;
      const accelerator = await chooseAccelerator(path);
      const tscKhz = accelerator === "tcg" ? timeStampCounterKhz() : undefined;
      const machine = await this.#create(accelerator, { from: "kernel", tscKhz });
      await machine.resume();
    } catch (cause) {
      throw cause instanceof Fault ? cause : new Fault(`Start microvm error: ${reason(cause)}`, { cause });
    }
    await this.#observations.startMetrics();
  }

  async #create(accelerator: Accelerator, beginning: Beginning): Promise<RunningMachine> {
    const onEvent = ({ name, data }: QmpEvent): void => {
      if (name === "SHUTDOWN" && data["reason"] === "guest-reset") void this.#end(0, "the guest reset");
    };
    const { mmds } = this.config;
    this.#metadata =
      mmds &&
      new MetadataService(
        mmds,
        () => this.#mmds.value,
        (name) => this.#observations.count(`mmds.${name}`),
      );
    if (accelerator === "kvm" && process.geteuid?.() === 0 && !isKvmShared())
      this.#observations.log(
        "Warning",
        "QEMU runs as root: /dev/kvm is for its owner only. A group with access to it would let QEMU run as a user of its own.",
      );
    const machine = await RunningMachine.create(
      {
        label: this.#label,
        config: this.config,
        devices: this.#deviceHost,
        accelerator,
        vsockSocket: this.#vsockSocket,
        onEvent,
      },
      beginning,
    );
    this.#state = { at: "started", machine, isPaused: false };
    this.#accelerator = accelerator;
    void machine.qemu.ended.then(({ exitCode, signal, said }) =>
      this.#end(1, `QEMU ended (${signal ?? `status ${exitCode}`}) ${said}`.trim()),
    );
    return machine;
  }

  #onDeviceEvent(event: Readonly<Record<string, unknown>>): void {
    switch (event["event"]) {
      case "metadata":
        this.#onMetadata(event);
        break;
      case "ended":
        // That QEMU is gone its own end says.
        if (event["why"] !== "QEMU hung up")
          void this.#end(1, `the device ${String(event["device"])} ended: ${String(event["why"])}`);
    }
  }

  #onMetadata(event: Readonly<Record<string, unknown>>): void {
    const { interface: id, connection } = event;
    const key = `${String(id)} ${String(connection)}`;
    if (event["ended"] === true) {
      this.#metadata?.forget(key);
      return;
    }
    const answer = this.#metadata?.receive(key, Buffer.from(String(event["bytes"]), "hex"));
    if (answer === undefined) return;
    // No bytes: more of the request is to come.
    const bytes = answer.bytes.toString("hex");
    // Devices that have ended end the machine.
    void this.#deviceHost
      .request("metadata-answer", { interface: id, connection, bytes, last: answer.isLast })
      .catch(() => {});
  }

  async #end(exitCode: number, why: string): Promise<void> {
    if (this.#isEnding) return;
    this.#isEnding = true;
    await this.#observations.readCounters();
    this.#ended.resolve({ exitCode, why });
  }

  /** Ends everything and removes the sockets that were made. */
  async close(): Promise<void> {
    this.#isEnding = true;
    if (this.#state.at === "started") await this.#state.machine.qemu.kill();
    await this.#devices?.close();
    // They remove it themselves unless they were killed.
    if (this.config.vsock !== undefined) await rm(this.config.vsock.uds_path, { force: true });
  }

  async setPaused(isPaused: boolean): Promise<void> {
    const state = this.#started();
    if (isPaused) await state.machine.pause();
    else {
      await state.machine.resume();
      this.#savedState = undefined;
    }
    state.isPaused = isPaused;
  }

  async patchInterface(patch: NetworkInterfacePatch): Promise<void> {
    this.#started();
    const { iface_id: id, rx_rate_limiter: rx, tx_rate_limiter: tx } = patch;
    if (!this.config.interfaces.some(({ iface_id }) => iface_id === id))
      throw new Fault(
        `Network config error: Unable to update the net device: Device not found: there is no interface ${id}.`,
      );
    await this.#deviceHost.request("net-limit", { interface: id, rx, tx });
    this.config.patchInterfaceLimits(patch);
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
    const { machine } = this.#started();
    const { drive_id: id, path_on_host: path, rate_limiter } = patch;
    const drive = this.config.drive(id);
    const refuse = (why: string, cause?: unknown): Fault =>
      new Fault(`Drive config error: Unable to patch the block device: ${why}`, { cause });
    if (path === undefined && rate_limiter === undefined)
      throw refuse(
        "Invalid block backend: only a vhost-user drive is patched without `path_on_host` and `rate_limiter`.",
      );
    try {
      if (path !== undefined) {
        await machine.drives.exchange(drive, path, this.config.checkBacking(drive, path));
        this.config.setBacking(id, path);
      }
      if (rate_limiter !== undefined) {
        const limiter = patchedLimiter(drive.rate_limiter, rate_limiter);
        await machine.limits.set(id, limiter);
        this.config.setDriveLimiter(id, limiter);
      }
    } catch (cause) {
      throw cause instanceof Fault ? cause : refuse(reason(cause), cause);
    }
  }

  #deviceNotFound(what: string, error: string): Fault {
    return new Fault(`${error}: Device not found: the machine has no ${what}.`);
  }

  /** GET /balloon */
  balloon(): object {
    if (this.#state.at === "started") return this.#balloon("Internal VMM error").config;
    if (this.config.balloon === undefined) throw new Fault("Balloon config error: No balloon device found.");
    return this.config.balloon;
  }

  #balloon(error: string): RunningBalloon {
    const { balloon } = this.#started().machine;
    if (balloon === undefined) throw this.#deviceNotFound("balloon", error);
    return balloon;
  }

  async balloonStatistics(): Promise<object> {
    return await this.#balloon("Internal VMM error").statistics();
  }

  async updateBalloonStatistics(seconds: number): Promise<void> {
    const balloon = this.#balloon("Balloon update error");
    await balloon.setPollingInterval(seconds);
    this.config.balloon = balloon.config;
  }

  async updateBalloon(mib: number): Promise<void> {
    const balloon = this.#balloon("Balloon update error");
    await balloon.setAmount(mib);
    this.config.balloon = balloon.config;
  }

  // A balloon with hinting is refused when it is put.
  #refuseHinting(): never {
    this.#balloon("Balloon update error");
    throw new Fault("Balloon update error: Free page hinting is not enabled for the balloon device.");
  }

  startHinting(_start: HintingStart): void {
    this.#refuseHinting();
  }

  hintingStatus(): object {
    return this.#refuseHinting();
  }

  stopHinting(): void {
    this.#refuseHinting();
  }

  memoryHotplugStatus(): object {
    throw this.#deviceNotFound("hotpluggable memory", "Internal VMM error");
  }

  updateMemoryHotplug(_mib: number): void {
    throw this.#deviceNotFound("hotpluggable memory", "Memory hotplug update error");
  }

  /** The keys of a keyboard; whether its driver is there is the guest's. */
  async sendCtrlAltDel(): Promise<void> {
    await this.#started().machine.sendCtrlAltDel();
  }

  /** Writes the paused machine into two files. */
  async createSnapshot(wanted: SnapshotCreate): Promise<void> {
    const state = this.#started();
    if (!state.isPaused)
      throw new Fault("Create snapshot error: Cannot save the microVM state: the microVM is not paused.");
    const began = performance.now();
    // QEMU cannot save a machine twice while it stands still; nothing has changed since then.
    this.#savedState ??= await saveMachine(state.machine, this.config, this.#accelerator);
    await writeSnapshotFiles(wanted, this.#savedState, state.machine);
    this.#observations.store(
      "latencies_us.full_create_snapshot",
      Math.round((performance.now() - began) * 1000),
    );
  }

  /** Makes this process's machine the one that was saved. When it fails the program ends, after the answer. */
  async loadSnapshot(wanted: SnapshotLoad): Promise<void> {
    if (this.#isForBoot)
      throw new Fault(
        "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.",
      );
    const began = performance.now();
    try {
      const { saved, beginning } = readSnapshotFiles(wanted);
      applySavedConfig(saved, this.config, tapOverrides(wanted, saved));
      const vsock = overriddenVsock(wanted, saved);
      if (vsock !== undefined) await this.setVsock(vsock);
      const machine = await this.#create(beginning.accelerator, beginning);
      if (this.#state.at === "started") this.#state.isPaused = true;
      if (wanted.resume_vm) {
        await machine.resume();
        if (this.#state.at === "started") this.#state.isPaused = false;
      }
      this.#observations.store("latencies_us.load_snapshot", Math.round((performance.now() - began) * 1000));
    } catch (cause) {
      const fault = new Fault(`Load snapshot error: ${reason(cause)}`, { cause });
      setImmediate(() => void this.#end(1, `Failed to build MicroVM: ${fault.message}`));
      throw fault;
    }
    await this.#observations.startMetrics();
  }
}
