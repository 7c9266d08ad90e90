// What the machine will be made of, collected by the calls before the start. Files are opened when they are named, so a
// wrong path is refused by the call that has it.
import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { Fault, systemReason } from "../fault.ts";
import type {
  BootSource,
  Drive,
  Entropy,
  MachineConfig,
  MachineConfigPatch,
  NetworkInterface,
  RateLimiter,
  Serial,
  Vsock,
} from "../schema/bodies.ts";

/** Firecracker's own defaults of the kernel command line, used when `boot_args` is not given. */
const defaultBootArgs =
  "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";
/** Bytes, the closing NUL included. */
const maxCommandLine = 2048;
/** virtio-mmio slots of QEMU's microvm machine with its second IO-APIC */
const maxDevices = 24;

const unsupported = (what: string): Fault =>
  new Fault(`${what} is not supported by firecracker-qemu: it is Firecracker's API on QEMU.`);

/** Opens `path` as the VMM would and closes it again; its size in bytes. @throws the system's error */
function probeFile(path: string, isReadOnly: boolean): number {
  const fd = openSync(path, (isReadOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK);
  try {
    const stats = fstatSync(fd);
    if (stats.isDirectory()) throw Object.assign(new Error("a directory"), { code: "EISDIR" });
    if (!stats.isFile() && !stats.isBlockDevice()) throw new Error("neither a file nor a block device");
    return stats.size;
  } finally {
    closeSync(fd);
  }
}

function refuseRateLimiter(limiter: RateLimiter | undefined, what: string): void {
  if (limiter?.bandwidth !== undefined || limiter?.ops !== undefined)
    throw unsupported(`A rate limiter of a ${what}`);
}

function checkId(pathId: string, bodyId: string): void {
  if (pathId !== bodyId) throw new Fault("The id from the path does not match the id from the body!");
}

/** The names of the network interfaces in this process's namespace; /sys may show another one's. */
function hasInterface(name: string): boolean {
  return readFileSync("/proc/self/net/dev", "utf8")
    .split("\n")
    .some((line) => line.trim().startsWith(`${name}:`));
}

function checkMachineConfig(config: MachineConfig): void {
  const { vcpu_count, mem_size_mib, smt, cpu_template, huge_pages } = config;
  if (vcpu_count < 1 || vcpu_count > 32 || (smt && vcpu_count !== 1 && vcpu_count % 2 !== 0)) {
    throw new Fault(
      `Machine config error: \`vcpu_count\` is ${vcpu_count}; it has to be 1 to 32, and 1 or even when SMT is enabled.`,
    );
  }
  if (mem_size_mib === 0 || (huge_pages !== "None" && mem_size_mib % 2 !== 0)) {
    throw new Fault(
      `Machine config error: \`mem_size_mib\` is ${mem_size_mib}; the memory size has to be over 0 and a multiple of the page size.`,
    );
  }
  if (huge_pages !== "None") throw unsupported(`\`huge_pages\` ${huge_pages}`);
  if (cpu_template !== undefined && cpu_template !== "None")
    throw unsupported(`The CPU template ${cpu_template}`);
}

/** The devices and settings of one machine, valid at every moment. */
export class VmConfig {
  machine: MachineConfig = {
    vcpu_count: 1,
    mem_size_mib: 128,
    smt: false,
    cpu_template: undefined,
    track_dirty_pages: false,
    huge_pages: "None",
  };
  bootSource: BootSource | undefined;
  vsock: Vsock | undefined;
  entropy: Entropy | undefined;
  serial: Serial | undefined;
  readonly #drives = new Map<string, Drive>();
  readonly #interfaces = new Map<string, NetworkInterface>();

  /** In the guest's order: the root device first, then as they were put. */
  get drives(): readonly Drive[] {
    const all = [...this.#drives.values()];
    return [...all.filter((one) => one.is_root_device), ...all.filter((one) => !one.is_root_device)];
  }

  get interfaces(): readonly NetworkInterface[] {
    return [...this.#interfaces.values()];
  }

  drive(id: string): Drive {
    const drive = this.#drives.get(id);
    if (drive === undefined) throw new Fault(`Drive config error: there is no drive with the id ${id}.`);
    return drive;
  }

  setMachine(config: MachineConfig): void {
    checkMachineConfig(config);
    this.machine = config;
  }

  patchMachine(patch: MachineConfigPatch): void {
    const given = Object.fromEntries(Object.entries(patch).filter(([, value]) => value !== undefined));
    if (Object.keys(given).length === 0) throw new Fault("Empty PATCH request.");
    this.setMachine({ ...this.machine, ...given });
  }

  setBootSource(source: BootSource): void {
    try {
      probeFile(source.kernel_image_path, true);
    } catch (cause) {
      throw new Fault(`Boot source error: The kernel file cannot be opened: ${systemReason(cause)}`, {
        cause,
      });
    }
    if (source.initrd_path !== undefined) {
      try {
        probeFile(source.initrd_path, true);
      } catch (cause) {
        throw new Fault(`Boot source error: The initrd file cannot be opened: ${systemReason(cause)}`, {
          cause,
        });
      }
    }
    const bytes = Buffer.byteLength(source.boot_args ?? "") + 1;
    if (bytes > maxCommandLine) {
      throw new Fault(
        `Boot source error: The kernel command line is invalid: \`boot_args\` has ${bytes - 1} bytes, at most ${maxCommandLine - 1} fit.`,
      );
    }
    if (/[\0\n]/.test(source.boot_args ?? ""))
      throw new Fault("Boot source error: The kernel command line is invalid: control characters.");
    this.bootSource = source;
  }

  putDrive(pathId: string, drive: Drive): void {
    checkId(pathId, drive.drive_id);
    if (drive.socket !== undefined && drive.path_on_host === undefined)
      throw unsupported("A vhost-user drive (`socket`)");
    if (drive.path_on_host === undefined || drive.socket !== undefined) {
      throw new Fault(
        "Drive config error: Unable to create the virtio block device: Invalid block config: one of `path_on_host` and `socket` has to be given.",
      );
    }
    refuseRateLimiter(drive.rate_limiter, "drive");
    try {
      probeFile(drive.path_on_host, drive.is_read_only === true);
    } catch (cause) {
      throw new Fault(
        `Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: ${systemReason(cause)} ${drive.path_on_host}`,
        { cause },
      );
    }
    const root = [...this.#drives.values()].find((one) => one.is_root_device);
    if (drive.is_root_device && root !== undefined && root.drive_id !== drive.drive_id)
      throw new Fault("Drive config error: A root block device already exists!");
    this.#roomFor(!this.#drives.has(drive.drive_id));
    this.#drives.set(drive.drive_id, drive);
  }

  /** Checks a change of the backing file of a running machine's drive. @returns its size in bytes */
  checkBacking(drive: Drive, path: string): number {
    try {
      return probeFile(path, drive.is_read_only === true);
    } catch (cause) {
      throw new Fault(
        `Unable to patch the block device: Virtio backend error: Error manipulating the backing file: ${systemReason(cause)} ${path}`,
        { cause },
      );
    }
  }

  setBacking(id: string, path: string): void {
    this.#drives.set(id, { ...this.drive(id), path_on_host: path });
  }

  putInterface(pathId: string, device: NetworkInterface): void {
    checkId(pathId, device.iface_id);
    const { guest_mac, host_dev_name, mtu, iface_id } = device;
    if (guest_mac !== undefined && !/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(guest_mac)) {
      throw new Fault(
        `Network config error: \`guest_mac\` is ${JSON.stringify(guest_mac.slice(0, 40))}; it has to be six hexadecimal bytes with colons.`,
      );
    }
    if (mtu !== undefined && mtu < 68)
      throw new Fault(`Network config error: \`mtu\` is ${mtu}; it has to be 68 to 65535.`);
    const others = [...this.#interfaces.values()].filter((one) => one.iface_id !== iface_id);
    if (
      guest_mac !== undefined &&
      others.some((one) => one.guest_mac?.toLowerCase() === guest_mac.toLowerCase())
    )
      throw new Fault(`Network config error: The MAC address is already in use: ${guest_mac}`);
    if (others.some((one) => one.host_dev_name === host_dev_name)) {
      throw new Fault(
        `Network config error: Could not create the network device: Open tap device failed: ${host_dev_name} is busy (os error 16)`,
      );
    }
    refuseRateLimiter(device.rx_rate_limiter, "network interface");
    refuseRateLimiter(device.tx_rate_limiter, "network interface");
    if (!/^[^/\s:,]{1,15}$/.test(host_dev_name) || !hasInterface(host_dev_name)) {
      throw new Fault(
        `Network config error: Could not create the network device: Open tap device failed: there is no interface ${JSON.stringify(host_dev_name.slice(0, 40))} in this network namespace`,
      );
    }
    this.#roomFor(!this.#interfaces.has(iface_id));
    this.#interfaces.set(iface_id, device);
  }

  setEntropy(entropy: Entropy): void {
    refuseRateLimiter(entropy.rate_limiter, "entropy device");
    this.entropy = entropy;
  }

  setSerial(serial: Serial): void {
    if (serial.rate_limiter !== undefined) throw unsupported("A rate limiter of the serial device");
    this.serial = serial;
  }

  get deviceCount(): number {
    const others = (this.vsock === undefined ? 0 : 1) + (this.entropy === undefined ? 0 : 1);
    return this.#drives.size + this.#interfaces.size + others;
  }

  #roomFor(isNew: boolean): void {
    if (isNew && this.deviceCount >= maxDevices - 2)
      throw new Fault(`No room for another device: the machine has ${maxDevices} slots.`);
  }

  /** The kernel's command line, with what the VMM itself adds. */
  get commandLine(): string {
    const parts = [this.bootSource?.boot_args ?? defaultBootArgs, "pci=off"];
    const root = this.drives.find((one) => one.is_root_device);
    if (root !== undefined) {
      const device = root.partuuid === undefined ? "/dev/vda" : `PARTUUID=${root.partuuid}`;
      parts.push(`root=${device}`, root.is_read_only === true ? "ro" : "rw");
    }
    return parts.filter((part) => part !== "").join(" ");
  }

  /** As GET /machine-config shows it. */
  describeMachine(): object {
    const { vcpu_count, mem_size_mib, smt, track_dirty_pages, huge_pages } = this.machine;
    return { vcpu_count, mem_size_mib, smt, track_dirty_pages, huge_pages };
  }

  /** As GET /vm/config shows it, and as a config file may have it. */
  describe(): object {
    const source = this.bootSource;
    return {
      balloon: null,
      "boot-source": {
        kernel_image_path: source?.kernel_image_path ?? "",
        initrd_path: source?.initrd_path ?? null,
        boot_args: source?.boot_args ?? null,
      },
      "cpu-config": null,
      drives: this.drives.map((drive) => ({
        drive_id: drive.drive_id,
        partuuid: drive.partuuid ?? null,
        is_root_device: drive.is_root_device,
        cache_type: drive.cache_type,
        is_read_only: drive.is_read_only ?? false,
        path_on_host: drive.path_on_host ?? null,
        rate_limiter: null,
        io_engine: drive.io_engine ?? "Sync",
        socket: null,
      })),
      entropy: this.entropy === undefined ? null : { rate_limiter: null },
      logger: null,
      "machine-config": this.describeMachine(),
      "memory-hotplug": null,
      metrics: null,
      "mmds-config": null,
      "network-interfaces": this.interfaces.map((device) => ({
        iface_id: device.iface_id,
        host_dev_name: device.host_dev_name,
        guest_mac: device.guest_mac ?? null,
        mtu: device.mtu ?? null,
        rx_rate_limiter: null,
        tx_rate_limiter: null,
      })),
      pmem: [],
      vsock:
        this.vsock === undefined ? null : { guest_cid: this.vsock.guest_cid, uds_path: this.vsock.uds_path },
    };
  }
}
