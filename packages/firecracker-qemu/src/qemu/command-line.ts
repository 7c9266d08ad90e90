// The QEMU command line of a machine: a pure function of its configuration. Virtio-mmio devices only, nothing by default, and no
// path that QEMU would have to open: files and sockets are there already, or are abstract sockets.
import type { Backing } from "../machine/backing-file.ts";
import type { VmConfig } from "../machine/vm-config.ts";
import type { Drive } from "../schema/bodies.ts";

export type Accelerator = "kvm" | "tcg";

/** Slots of the machine without and with its second IO-APIC */
const slots = { small: 8, large: 24 };

/** The descriptor of QEMU's control socket in its process */
export const controlFd = 3;
/** The descriptor of the socket by which device registers are written after a restore */
export const registerFd = 4;
/** The first descriptor of a file */
export const firstFileFd = 5;

/** The file node that stands in for a drive's while its size changes */
export const resizeNode = "resize";

const firstBusAddress = 0xfeb0_0000;
const busBytes = 512;

/** What has been prepared for QEMU: descriptors by their number in its process, abstract sockets by name. */
export type Wiring = {
  /** For people who look at processes */
  readonly label: string;
  readonly memoryFd: number;
  /** CPUs that the host has for this process and others */
  readonly hostCpus: number;
  /** undefined for a machine that is restored */
  readonly kernel: { readonly fd: number; readonly initrdFd: number | undefined } | undefined;
  /** What an emulated machine's kernel is told of its time stamp counter */
  readonly tscKhz: number | undefined;
  /** By drive id: the descriptor of what is behind it */
  readonly driveFiles: ReadonlyMap<string, Backing & { readonly fd: number }>;
  /** Stands in for a drive's file while its size changes */
  readonly resizeFd: number;
  readonly vsockSocket: string | undefined;
  /** By interface id */
  readonly netSockets: ReadonlyMap<string, string>;
  readonly macs: ReadonlyMap<string, string>;
  readonly monitorSocket: string;
  readonly serial:
    | { readonly to: "stdio" }
    | { readonly to: "file"; readonly fd: number }
    | { readonly to: "socket"; readonly socket: string };
};

/** The node name of drive `id`'s format layer, which stays when its file is exchanged. */
export function driveNode(id: string): string {
  return `drive-${id}`;
}

/** The name of drive `id`'s device. */
export function driveDevice(id: string): string {
  return `blk-${id}`;
}

/** The options of a file node for descriptor set `set`, as QMP's blockdev-add takes them. */
export function fileNode(
  name: string,
  set: number,
  { isReadOnly, isUnsafe, isBlockDevice }: Record<"isReadOnly" | "isUnsafe" | "isBlockDevice", boolean>,
): object {
  return {
    driver: isBlockDevice ? "host_device" : "file",
    "node-name": name,
    filename: `/dev/fdset/${set}`,
    "read-only": isReadOnly,
    // Images are shared read-only by many machines; who writes is its caller's care, as it is with Firecracker.
    locking: "off",
    cache: { direct: false, "no-flush": isUnsafe },
  };
}

const sectorBytes = 512;

/** The whole sectors of `bytes`: what the guest sees of a drive. QEMU would show one more, and fill it. */
export function wholeSectors(bytes: number): number {
  return bytes - (bytes % sectorBytes);
}

/** The options of the raw layer above file node `file`, which has `bytes`. */
export function formatNode(
  id: string,
  file: string,
  isReadOnly: boolean,
  isUnsafe: boolean,
  bytes: number,
): object {
  return {
    driver: "raw",
    "node-name": driveNode(id),
    file,
    ...(wholeSectors(bytes) === bytes ? {} : { size: wholeSectors(bytes) }),
    "read-only": isReadOnly,
    cache: { direct: false, "no-flush": isUnsafe },
  };
}

/** The file node that a drive begins with. */
export function firstFileNode({ drive_id: id }: Drive): string {
  return `file-${id}-0`;
}

/** Whether the machine has more devices than it has slots without its second IO-APIC. */
export function needsSecondIoapic(config: VmConfig): boolean {
  return config.deviceCount > slots.small;
}

/** The slots by device name; the guest finds the highest first. */
function busOf(config: VmConfig): ReadonlyMap<string, number> {
  const names = [
    ...config.drives.map(({ drive_id }) => driveDevice(drive_id)),
    ...config.interfaces.map(({ iface_id }) => `net-${iface_id}`),
    ...(config.vsock === undefined ? [] : ["vsock0"]),
    ...(config.entropy === undefined ? [] : ["rng0"]),
    ...(config.balloon === undefined ? [] : ["balloon0"]),
  ];
  const top = needsSecondIoapic(config) ? slots.large : slots.small;
  return new Map(names.map((name, index) => [name, top - 1 - index]));
}

/** Where the registers of the vsock device are in the guest's memory. */
export function vsockRegisters(config: VmConfig): number {
  return firstBusAddress + busBytes * (busOf(config).get("vsock0") ?? 0);
}

const abstract = (id: string, socket: string): string[] => [
  "-chardev",
  `socket,id=${id},path=${socket},abstract=on`,
];

/**
 * An emulated CPU waits for another by turning round, for as long as the host runs somebody else in its place: so they have a thread
 * each only on a host with CPUs to spare, and take turns in one elsewhere.
 */
function accelArgument(accelerator: Accelerator, cpus: number, hostCpus: number): string {
  if (accelerator === "kvm" || cpus === 1) return accelerator;
  return hostCpus >= 2 * cpus ? "tcg,thread=multi" : "tcg,thread=single";
}

function machineArguments(config: VmConfig, accelerator: Accelerator, wiring: Wiring): string[] {
  const { vcpu_count: cpus, mem_size_mib: memory, smt } = config.machine;
  const ioapic2 = needsSecondIoapic(config) ? "on" : "off";
  return [
    "-M",
    `microvm,acpi=on,pcie=off,ioapic2=${ioapic2},memory-backend=ram,auto-kernel-cmdline=off`,
    "-object",
    `memory-backend-file,id=ram,size=${memory}M,mem-path=/proc/self/fd/${wiring.memoryFd},share=on`,
    ...["-m", `${memory}M`, "-accel", accelArgument(accelerator, cpus, wiring.hostCpus), "-cpu", "max"],
    ...["-smp", smt && cpus > 1 ? `${cpus},cores=${cpus / 2},threads=2` : `${cpus}`],
    // A comma in an option's value is written twice.
    ...["-name", `guest=${wiring.label.replaceAll(",", ",,")}`],
    ...["-nodefaults", "-no-user-config", "-display", "none"],
    ...["-global", "virtio-mmio.force-legacy=false"],
    // Firecracker's keyboard controller: for Ctrl-Alt-Del, and for the reset of `reboot=k`.
    ...["-device", "i8042"],
    // A reset ends the machine; a power-off leaves the VMM running, as it does with Firecracker on x86.
    ...["-action", "reboot=shutdown,shutdown=pause"],
    ...["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ...["-chardev", `socket,id=control,fd=${controlFd}`, "-mon", "chardev=control,mode=control"],
    ...abstract("files", wiring.monitorSocket),
    ...["-mon", "chardev=files,mode=control"],
    ...[
      "-chardev",
      `socket,id=registers,fd=${registerFd}`,
      "-object",
      "qtest,id=registers,chardev=registers,log=none",
    ],
    "-S",
  ];
}

function kernelArguments(config: VmConfig, { kernel, tscKhz }: Wiring): string[] {
  if (kernel === undefined) return ["-incoming", "defer"];
  // Of an emulated time stamp counter a kernel believes neither its rate nor, with several CPUs, that they have the same.
  const facts = tscKhz === undefined ? [] : [`tsc_early_khz=${tscKhz}`, "tsc=reliable"];
  const said = new Set(config.commandLine.split(" ").map((word) => word.split("=")[0]));
  const unsaid = facts.filter((fact) => !said.has(fact.split("=")[0]));
  const line = [config.commandLine, ...unsaid].join(" ");
  const initrd = kernel.initrdFd === undefined ? [] : ["-initrd", `/proc/self/fd/${kernel.initrdFd}`];
  return ["-kernel", `/proc/self/fd/${kernel.fd}`, "-append", line, ...initrd];
}

function serialArguments({ serial }: Wiring): string[] {
  const attach = ["-serial", "chardev:serial"];
  switch (serial.to) {
    case "stdio":
      return ["-chardev", "stdio,id=serial,signal=off", ...attach];
    case "file": {
      const set = ["-add-fd", `fd=${serial.fd},set=${serial.fd}`];
      return [...set, "-chardev", `file,id=serial,path=/dev/fdset/${serial.fd}`, ...attach];
    }
    case "socket":
      return [...abstract("serial", serial.socket), ...attach];
  }
}

function driveArguments(drive: Drive, bus: string, wiring: Wiring): string[] {
  const none = { fd: -1, bytes: 0, isBlockDevice: false };
  const { fd, bytes, isBlockDevice } = wiring.driveFiles.get(drive.drive_id) ?? none;
  const isReadOnly = drive.is_read_only === true;
  const isUnsafe = drive.cache_type === "Unsafe";
  const file = firstFileNode(drive);
  const { drive_id: id } = drive;
  return [
    ...["-add-fd", `fd=${fd},set=${fd}`],
    ...["-blockdev", JSON.stringify(fileNode(file, fd, { isReadOnly, isUnsafe, isBlockDevice }))],
    ...["-blockdev", JSON.stringify(formatNode(id, file, isReadOnly, isUnsafe, bytes))],
    "-device",
    // An error is the guest's, as with Firecracker: QEMU by itself stops the machine when the host's disk is full.
    `virtio-blk-device,id=${driveDevice(id)},drive=${driveNode(id)},bus=${bus},rerror=report,werror=report`,
  ];
}

/** What virtio-rng gives in a time: Firecracker's bandwidth bucket. */
function entropyLimit(config: VmConfig): string {
  const bucket = config.entropy?.rate_limiter?.bandwidth;
  if (bucket === undefined || bucket.size === 0 || bucket.refill_time === 0) return "";
  return `,max-bytes=${bucket.size},period=${bucket.refill_time}`;
}

/** The arguments for qemu-system-x86_64. */
export function qemuArguments(config: VmConfig, accelerator: Accelerator, wiring: Wiring): readonly string[] {
  const buses = busOf(config);
  const standIn = { isReadOnly: false, isUnsafe: true, isBlockDevice: false };
  const bus = (name: string): string => `virtio-mmio-bus.${buses.get(name) ?? ""}`;
  const args = [
    ...machineArguments(config, accelerator, wiring),
    ...kernelArguments(config, wiring),
    ...serialArguments(wiring),
    ...["-add-fd", `fd=${wiring.resizeFd},set=${wiring.resizeFd}`],
    ...["-blockdev", JSON.stringify(fileNode(resizeNode, wiring.resizeFd, standIn))],
  ];
  for (const drive of config.drives) {
    const name = driveDevice(drive.drive_id);
    args.push(...driveArguments(drive, bus(name), wiring));
  }
  for (const { iface_id: id, mtu } of config.interfaces) {
    const more = `,mac=${wiring.macs.get(id) ?? ""}${mtu === undefined ? "" : `,host_mtu=${mtu}`}`;
    args.push(
      ...abstract(`tap-${id}`, wiring.netSockets.get(id) ?? ""),
      ...["-netdev", `vhost-user,id=tap-${id},chardev=tap-${id}`, "-device"],
      `virtio-net-device,id=net-${id},netdev=tap-${id},ctrl_guest_offloads=off,bus=${bus(`net-${id}`)}${more}`,
    );
  }
  if (wiring.vsockSocket !== undefined) {
    args.push(...abstract("vsock", wiring.vsockSocket), "-device");
    args.push(`vhost-user-vsock-device,id=vsock0,chardev=vsock,bus=${bus("vsock0")}`);
  }
  if (config.entropy !== undefined) {
    args.push("-object", "rng-builtin,id=rng", "-device");
    args.push(`virtio-rng-device,id=rng0,rng=rng,bus=${bus("rng0")}${entropyLimit(config)}`);
  }
  if (config.balloon !== undefined) {
    const { deflate_on_oom, free_page_reporting } = config.balloon;
    const flags = `deflate-on-oom=${deflate_on_oom ? "on" : "off"},free-page-reporting=${free_page_reporting ? "on" : "off"}`;
    args.push("-device", `virtio-balloon-device,id=balloon0,${flags},bus=${bus("balloon0")}`);
  }
  return args;
}
