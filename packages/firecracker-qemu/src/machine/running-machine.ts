// A machine that QEMU runs: everything prepared for it, started, and the calls that reach it.
import { constants, fstatSync, openSync, writeSync } from "node:fs";
import { availableParallelism } from "node:os";
import type { Accelerator, Wiring } from "../qemu/command-line.ts";
import { firstFileFd, firstFileNode, qemuArguments, vsockRegisters } from "../qemu/command-line.ts";
import { type DeviceHost, InheritedFiles } from "../qemu/device-host.ts";
import { DriveExchange } from "../qemu/drive-exchange.ts";
import { randomMac } from "../qemu/interface-mac.ts";
import { type QemuProcess, startQemu } from "../qemu/qemu-process.ts";
import { qemuUser } from "../qemu/qemu-user.ts";
import type { QmpEvent } from "../qemu/qmp-client.ts";
import { readTransport, restoreTransport, setPresent, type TransportState } from "../qemu/vsock-transport.ts";
import { type Backing, backingOf } from "./backing-file.ts";
import { RunningBalloon } from "./balloon.ts";
import { DriveLimits } from "./drive-limits.ts";
import { effectiveBucket } from "./rate-limiter.ts";
import type { VmConfig } from "./vm-config.ts";

/** What a machine begins with besides its configuration: a kernel, or the state of one that was saved. */
export type Beginning =
  | { readonly from: "kernel"; readonly tscKhz: number | undefined }
  | {
      readonly from: "snapshot";
      readonly memoryPath: string;
      /** The state of QEMU's devices */
      readonly state: Buffer;
      readonly vsock: TransportState | undefined;
    };

export type Preparation = {
  readonly label: string;
  readonly config: VmConfig;
  readonly devices: DeviceHost;
  readonly accelerator: Accelerator;
  /** Where the vsock device's backend waits */
  readonly vsockSocket: string | undefined;
  readonly onEvent: (event: QmpEvent) => void;
};

const othersMayRead = 0o004;
const mib = 1 << 20;
const defaultMetadataAddress = "169.254.169.254";

/** The kernel or initrd so that QEMU, who is somebody else, can open it again by its number: as a copy if it must be. */
async function readableByQemu(
  { config, devices }: Preparation,
  purpose: "kernel" | "initrd",
  files: InheritedFiles,
): Promise<number> {
  const fd = config.files.get(purpose);
  if ((fstatSync(fd).mode & othersMayRead) !== 0 || process.geteuid?.() !== 0) return files.lend(fd);
  return files.add(await devices.requestFile("copy", { path: `/proc/${process.pid}/fd/${fd}` }));
}

/** A file without a name that has `content`, to be read from its beginning. */
async function fileWith(content: Buffer, devices: DeviceHost): Promise<number> {
  const fd = await devices.requestFile("scratch", {});
  writeSync(fd, content, 0, content.length, 0);
  return fd;
}

async function wireNetwork({ config, devices }: Preparation): Promise<{
  netSockets: Map<string, string>;
  macs: Map<string, string>;
  handOver: () => void;
}> {
  const [netSockets, macs] = [new Map<string, string>(), new Map<string, string>()];
  for (const { iface_id: id, guest_mac, rx_rate_limiter, tx_rate_limiter } of config.interfaces) {
    netSockets.set(id, await devices.requestSocket("net", { interface: id }));
    macs.set(id, guest_mac ?? randomMac());
    await devices.request("net-limit", { interface: id, rx: rx_rate_limiter, tx: tx_rate_limiter });
    if (config.mmds?.network_interfaces.includes(id) === true) {
      const address = config.mmds.ipv4_address ?? defaultMetadataAddress;
      await devices.request("metadata", { interface: id, address });
    }
  }
  const handOver = (): void => {
    for (const { iface_id, tap } of config.interfaces)
      devices.handOver(tap.fd, netSockets.get(iface_id) ?? "");
  };
  return { netSockets, macs, handOver };
}

async function wireSerial(
  { config, devices }: Preparation,
  files: InheritedFiles,
): Promise<Wiring["serial"]> {
  const path = config.serial?.serial_out_path;
  const bucket = effectiveBucket(config.serial?.rate_limiter);
  if (bucket !== undefined)
    return { to: "socket", socket: await devices.requestSocket("serial", { path, bucket }) };
  if (path === undefined) return { to: "stdio" };
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NONBLOCK;
  return { to: "file", fd: files.add(openSync(path, flags, 0o600)) };
}

/** A machine that QEMU has built; it does not run before `resume`. */
export class RunningMachine {
  readonly #config: VmConfig;
  readonly #devices: DeviceHost;
  readonly qemu: QemuProcess;
  readonly drives: DriveExchange;
  readonly limits: DriveLimits;
  readonly balloon: RunningBalloon | undefined;

  private constructor({ config, devices }: Preparation, qemu: QemuProcess, drives: Wiring["driveFiles"]) {
    this.#config = config;
    this.#devices = devices;
    this.qemu = qemu;
    const firstFiles = config.drives.map((drive) => {
      const { fd: set, bytes } = drives.get(drive.drive_id) ?? { fd: -1, bytes: 0 };
      return [drive.drive_id, { node: firstFileNode(drive), set, bytes }] as const;
    });
    this.drives = new DriveExchange(qemu.qmp, devices, new Map(firstFiles));
    this.limits = new DriveLimits(qemu.qmp);
    this.balloon =
      config.balloon && new RunningBalloon(qemu.qmp, config.machine.mem_size_mib, config.balloon);
  }

  /** @throws {Error} and then nothing of it is left */
  static async create(preparation: Preparation, beginning: Beginning): Promise<RunningMachine> {
    const { config, devices, accelerator, onEvent } = preparation;
    const files = new InheritedFiles(firstFileFd);
    let qemu: QemuProcess | undefined;
    try {
      const bytes = config.machine.mem_size_mib * mib;
      const huge_pages = config.machine.huge_pages === "2M";
      const path = beginning.from === "snapshot" ? beginning.memoryPath : undefined;
      const memoryFd = files.add(await devices.requestFile("memory", { bytes, path, huge_pages }));
      const stateFd =
        beginning.from === "snapshot" ? files.add(await fileWith(beginning.state, devices)) : undefined;
      const { bootSource } = config;
      const kernel =
        beginning.from === "snapshot" || bootSource === undefined
          ? undefined
          : {
              fd: await readableByQemu(preparation, "kernel", files),
              initrdFd:
                bootSource.initrd_path === undefined
                  ? undefined
                  : await readableByQemu(preparation, "initrd", files),
            };
      const driveFiles = new Map<string, Backing & { fd: number }>();
      for (const { drive_id } of config.drives) {
        const fd = config.files.get(`drive ${drive_id}`);
        driveFiles.set(drive_id, { fd: files.lend(fd), ...backingOf(fd) });
      }
      const { handOver, ...network } = await wireNetwork(preparation);
      const wiring: Wiring = {
        label: preparation.label,
        memoryFd,
        hostCpus: availableParallelism(),
        kernel,
        tscKhz: beginning.from === "kernel" ? beginning.tscKhz : undefined,
        driveFiles,
        resizeFd: files.add(await devices.requestFile("scratch", {})),
        vsockSocket: preparation.vsockSocket,
        ...network,
        monitorSocket: await devices.requestSocket("monitor"),
        serial: await wireSerial(preparation, files),
      };
      const user = qemuUser(accelerator === "kvm");
      await devices.request("connect", { uid: user?.uid ?? process.geteuid?.() ?? 0 });
      handOver();
      const saved = Promise.withResolvers<void>();
      const watch = (event: QmpEvent): void => {
        if (event.name === "MIGRATION" && event.data["status"] === "completed") saved.resolve();
        onEvent(event);
      };
      qemu = await startQemu(qemuArguments(config, accelerator, wiring), watch, { files: files.fds, user });
      const ended = qemu.ended.then(({ said }) => {
        throw new Error(`QEMU ended: ${said}`);
      });
      ended.catch(() => {});
      const machine = new RunningMachine(preparation, qemu, driveFiles);
      // The memory is a file of its own: only the devices' state is saved and read.
      const capabilities = ["x-ignore-shared", "events"].map((capability) => ({ capability, state: true }));
      await qemu.qmp.execute("migrate-set-capabilities", { capabilities });
      if (beginning.from === "snapshot") {
        if (config.vsock !== undefined) await setPresent(qemu.qmp, false);
        await qemu.qmp.execute("migrate-incoming", { uri: `fd:${stateFd}` });
        // A state that cannot be read ends QEMU, which says why.
        await Promise.race([saved.promise, ended]);
        if (config.vsock !== undefined) await setPresent(qemu.qmp, true);
        if (beginning.vsock !== undefined) await machine.#restoreVsock(beginning.vsock);
      }
      for (const drive of config.drives) await machine.limits.set(drive.drive_id, drive.rate_limiter);
      await machine.balloon?.begin();
      config.files.closeAll();
      return machine;
    } catch (cause) {
      await qemu?.kill();
      throw cause;
    } finally {
      files.close();
    }
  }

  async pause(): Promise<void> {
    await this.qemu.qmp.execute("stop");
  }

  async resume(): Promise<void> {
    await this.qemu.qmp.execute("cont");
  }

  async sendCtrlAltDel(): Promise<void> {
    const keys = ["ctrl", "alt", "delete"].map((data) => ({ type: "qcode", data }));
    await this.qemu.qmp.execute("send-key", { keys });
  }

  /** The paused machine's devices. `stateFd` is a file with QEMU's; the caller closes it. */
  async save(): Promise<{ readonly stateFd: number; readonly vsock: TransportState | undefined }> {
    const { qmp } = this.qemu;
    if (this.#config.vsock === undefined)
      return { stateFd: await this.#devices.requestFile("save-state", {}), vsock: undefined };
    const vsock = await readTransport(qmp, this.#devices);
    await setPresent(qmp, false);
    try {
      return { stateFd: await this.#devices.requestFile("save-state", {}), vsock };
    } finally {
      await setPresent(qmp, true);
      await this.#restoreVsock(vsock);
    }
  }

  async saveMemory(path: string): Promise<void> {
    await this.#devices.request("save-memory", { path });
  }

  async #restoreVsock(state: TransportState): Promise<void> {
    await restoreTransport(this.qemu.registers, this.#devices, vsockRegisters(this.#config), state);
  }
}
