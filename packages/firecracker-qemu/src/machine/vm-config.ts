// What the machine will be made of, collected by the calls before the start, and checked by each of them as Firecracker checks.
import { closeSync } from "node:fs";
import { Fault, systemReason } from "../fault.ts";
import type {
  Balloon,
  BootSource,
  Drive,
  Entropy,
  MachineConfig,
  MachineConfigPatch,
  MemoryHotplug,
  MmdsConfig,
  NetworkInterface,
  NetworkInterfacePatch,
  Pmem,
  RateLimiter,
  Serial,
  Vsock,
} from "../schema/bodies.ts";
import type { CpuConfig } from "../schema/cpu-config.ts";
import { type Backing, KeptFiles, openReadable, probeDrive } from "./backing-file.ts";
import { DriveList } from "./drive-list.ts";
import { type AttachedInterface, InterfaceList } from "./interface-list.ts";
import { checkBootArgs, kernelCommandLine } from "./kernel-command-line.ts";
import { checkMemoryHotplug } from "./memory-hotplug.ts";
import { effectiveLimiter } from "./rate-limiter.ts";
import { unsupported } from "./unsupported.ts";

function checkMachineConfig(config: MachineConfig, balloonMib: number | undefined): void {
  const { vcpu_count, mem_size_mib, smt, cpu_template, huge_pages } = config;
  if (vcpu_count < 1 || vcpu_count > 32 || (smt && vcpu_count !== 1 && vcpu_count % 2 !== 0)) {
    throw new Fault(
      `Machine config error: The number of vCPUs (\`vcpu_count\`) is ${vcpu_count}; it has to be 1 to 32, and 1 or even when SMT is enabled.`,
    );
  }
  if (mem_size_mib === 0 || (huge_pages !== "None" && mem_size_mib % 2 !== 0)) {
    throw new Fault(
      `Machine config error: The memory size (\`mem_size_mib\`) is ${mem_size_mib} MiB; it has to be over 0 and a multiple of the configured page size.`,
    );
  }
  if (balloonMib !== undefined && mem_size_mib < balloonMib) {
    throw new Fault(
      `Machine config error: The memory size (\`mem_size_mib\`) is ${mem_size_mib} MiB; the balloon device's target is ${balloonMib} MiB, and it cannot be smaller.`,
    );
  }
  if (cpu_template !== undefined && cpu_template !== "None") throw unsupported("cpu_template", cpu_template);
}

/** The first and the last 256 addresses of the range are nobody's. */
function isLinkLocal(address: string): boolean {
  const [a, b, c] = address.split(".").map(Number);
  return a === 169 && b === 254 && c !== 0 && c !== 255;
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
  balloon: Balloon | undefined;
  memoryHotplug: MemoryHotplug | undefined;
  mmds: MmdsConfig | undefined;
  /** Open since they were named: `kernel`, `initrd`, `drive ID` */
  readonly files = new KeptFiles();
  readonly #drives = new DriveList(this.files);
  readonly #interfaces = new InterfaceList();

  /** In the guest's order. */
  get drives(): readonly Drive[] {
    return this.#drives.all;
  }

  get interfaces(): readonly AttachedInterface[] {
    return this.#interfaces.all;
  }

  /** The drive `id` of a running machine. @throws {Fault} when there is none */
  drive(id: string): Drive {
    const drive = this.#drives.find(id);
    if (drive === undefined)
      throw new Fault(
        `Drive config error: Unable to patch the block device: Device not found: there is no drive ${id}.`,
      );
    return drive;
  }

  /** A `cpu_template` that is not given stays, `None` removes it. */
  setMachine(patch: MachineConfigPatch): void {
    const given = Object.entries(patch).filter(([, value]) => value !== undefined);
    const machine: MachineConfig = { ...this.machine, ...Object.fromEntries(given) };
    checkMachineConfig(machine, this.balloon?.amount_mib);
    this.machine = machine.cpu_template === "None" ? { ...machine, cpu_template: undefined } : machine;
  }

  setBootSource(source: BootSource): void {
    let kernel: number;
    let initrd: number | undefined;
    try {
      kernel = openReadable(source.kernel_image_path);
    } catch (cause) {
      throw new Fault(`Boot source error: The kernel file cannot be opened: ${systemReason(cause)}`, {
        cause,
      });
    }
    try {
      if (source.initrd_path !== undefined) initrd = openReadable(source.initrd_path);
      checkBootArgs(source.boot_args ?? "");
    } catch (cause) {
      closeSync(kernel);
      if (cause instanceof Fault) throw cause;
      throw new Fault(`Boot source error: The initrd file cannot be opened: ${systemReason(cause)}`, {
        cause,
      });
    }
    this.files.keep("kernel", kernel);
    if (initrd === undefined) this.files.drop("initrd");
    else this.files.keep("initrd", initrd);
    this.bootSource = source;
  }

  putDrive(drive: Drive): void {
    this.#drives.put(drive);
  }

  /** Checks a change of the backing file of a running machine's drive. @throws {Fault} */
  checkBacking(drive: Drive, path: string): Backing {
    try {
      return probeDrive(path, drive.is_read_only === true);
    } catch (cause) {
      throw new Fault(
        `Drive config error: Unable to patch the block device: Virtio backend error: Error manipulating the backing file: ${systemReason(cause)} ${path}`,
        { cause },
      );
    }
  }

  setBacking(id: string, path: string): void {
    this.#drives.replace({ ...this.drive(id), path_on_host: path });
  }

  /** What limits a drive of a running machine from now on. */
  setDriveLimiter(id: string, limiter: RateLimiter | undefined): void {
    this.#drives.replace({ ...this.drive(id), rate_limiter: limiter });
  }

  /** What limits an interface of a running machine from now on: a bucket that is not given stays. */
  patchInterfaceLimits(patch: NetworkInterfacePatch): void {
    this.#interfaces.patchLimits(patch);
  }

  putPmem(pmem: Pmem): never {
    if (pmem.root_device && this.#drives.hasRoot)
      throw new Fault("Pmem config error: The root device is a block device already; there can be one only.");
    throw unsupported("pmem");
  }

  /** An interface that takes another's place begins without metadata service. */
  putInterface(device: NetworkInterface): void {
    const { mmds } = this;
    try {
      this.#interfaces.put(device);
    } finally {
      const left = mmds?.network_interfaces.filter((id) => id !== device.iface_id) ?? [];
      if (mmds !== undefined)
        this.mmds = left.length === 0 ? undefined : { ...mmds, network_interfaces: left };
    }
  }

  setCpuConfig({ kvm_capabilities, cpuid_modifiers, msr_modifiers }: CpuConfig): void {
    if (kvm_capabilities.length + cpuid_modifiers.length + msr_modifiers.length > 0)
      throw unsupported("cpu-config");
  }

  setEntropy(entropy: Entropy): void {
    const { bandwidth, ops } = effectiveLimiter(entropy.rate_limiter) ?? {};
    if (ops !== undefined) throw unsupported("entropy ops");
    if ((bandwidth?.one_time_burst ?? 0) > 0) throw unsupported("entropy one_time_burst");
    this.entropy = entropy;
  }

  setBalloon(balloon: Balloon): void {
    if (balloon.amount_mib > this.machine.mem_size_mib) {
      throw new Fault(
        `Balloon config error: Amount of pages requested is too large: \`amount_mib\` is ${balloon.amount_mib}, the machine has ${this.machine.mem_size_mib} MiB.`,
      );
    }
    if (balloon.free_page_hinting) throw unsupported("free_page_hinting");
    this.balloon = balloon;
  }

  setMemoryHotplug(memory: MemoryHotplug): void {
    checkMemoryHotplug(memory);
    throw unsupported("hotplug/memory");
  }

  setMmds(mmds: MmdsConfig): void {
    const refuse = (why: string): Fault => new Fault(`MMDS config error: ${why}`);
    if (mmds.ipv4_address !== undefined && !isLinkLocal(mmds.ipv4_address))
      throw refuse(`The IPv4 address (\`ipv4_address\`) ${mmds.ipv4_address} is not link local.`);
    if (mmds.network_interfaces.length === 0)
      throw refuse("The list of network interface IDs (`network_interfaces`) is empty.");
    const unknown = mmds.network_interfaces.find((id) => !this.#interfaces.has(id));
    if (unknown !== undefined)
      throw refuse(`\`network_interfaces\` has an ID that is no network interface's: ${unknown}.`);
    this.mmds = mmds;
  }

  get deviceCount(): number {
    const single = [this.vsock, this.entropy, this.balloon, this.memoryHotplug];
    return this.drives.length + this.interfaces.length + single.filter((one) => one !== undefined).length;
  }

  /** The kernel's command line, with what the VMM itself adds. */
  get commandLine(): string {
    return kernelCommandLine(
      this.bootSource?.boot_args,
      this.drives.find((one) => one.is_root_device),
    );
  }
}
