// The QEMU command line of a machine: a pure function of its configuration. Virtio-mmio devices only, nothing by default.
import type { VmConfig } from "../machine/vm-config.ts";

export type Accelerator = "kvm" | "tcg";

/** Slots of the machine without and with its second IO-APIC */
const slots = { small: 8, large: 24 };

/** The descriptor of QEMU's control socket in its process */
export const controlFd = 3;

/** The descriptor of the file that stands in for a drive's while its size changes */
export const resizeFd = 4;
/** The descriptor of the first network interface's tap; the others follow */
export const firstTapFd = 5;
/** The file node above it */
export const resizeNode = "resize";

/** A value in one of QEMU's comma-separated options: a comma in it is written twice. */
function escaped(value: string): string {
  return value.replaceAll(",", ",,");
}

/** The node name of drive `id`'s format layer, which stays when its file is exchanged. */
export function driveNode(id: string): string {
  return `drive-${id}`;
}

/** The options of a file node, as QMP's blockdev-add takes them. */
export function fileNode(name: string, path: string, isReadOnly: boolean, isUnsafe: boolean): object {
  return {
    driver: "file",
    "node-name": name,
    filename: path,
    "read-only": isReadOnly,
    // Images are shared read-only by many machines; who writes is its caller's care, as it is with Firecracker.
    locking: "off",
    cache: { direct: false, "no-flush": isUnsafe },
  };
}

/** The options of the raw layer above file node `file`. */
export function formatNode(id: string, file: string, isReadOnly: boolean, isUnsafe: boolean): object {
  return {
    driver: "raw",
    "node-name": driveNode(id),
    file,
    "read-only": isReadOnly,
    cache: { direct: false, "no-flush": isUnsafe },
  };
}

/** Whether the machine has more devices than it has slots without its second IO-APIC. */
export function needsSecondIoapic(config: VmConfig): boolean {
  return config.deviceCount > slots.small;
}

/** Whether an exchange of a drive's file may need the stand-in. */
export function hasReadOnlyDrives(config: VmConfig): boolean {
  return config.drives.some((drive) => drive.is_read_only === true);
}

/**
 * The arguments for qemu-system-x86_64; `vhostSocket` is where the vsock device's backend listens,
 * `tscKhz` what an emulated machine's kernel is told of its time stamp counter. With the second
 * IO-APIC the serial port's interrupt never arrives in QEMU 7.2 (docs/decisions/0004), so it is only there when it must be.
 */
export function qemuArguments(
  config: VmConfig,
  accelerator: Accelerator,
  vhostSocket: string | undefined,
  tscKhz: number | undefined,
): readonly string[] {
  const { vcpu_count: cpus, mem_size_mib: memory, smt } = config.machine;
  const source = config.bootSource;
  const isLarge = needsSecondIoapic(config);
  const shared = vhostSocket === undefined ? "off" : "on";
  // QEMU asks the kernel for transparent huge pages in any case.
  const pages = config.machine.huge_pages === "2M" ? ",hugetlb=on,hugetlbsize=2M" : "";
  const args = [
    "-M",
    `microvm,acpi=on,pcie=off,ioapic2=${isLarge ? "on" : "off"},memory-backend=ram,auto-kernel-cmdline=off`,
    "-object",
    `memory-backend-memfd,id=ram,size=${memory}M,share=${shared}${pages}`,
    "-m",
    `${memory}M`,
    "-accel",
    accelerator,
    "-cpu",
    "max",
    "-smp",
    smt && cpus > 1 ? `${cpus},cores=${cpus / 2},threads=2` : `${cpus}`,
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    // A reset ends the machine; a power-off leaves the VMM running, as it does with Firecracker on x86.
    "-action",
    "reboot=shutdown,shutdown=pause",
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-chardev",
    `socket,id=control,fd=${controlFd}`,
    "-mon",
    "chardev=control,mode=control",
    "-S",
    "-kernel",
    source?.kernel_image_path ?? "",
    "-append",
    tscKhz === undefined || /\btsc_early_khz=/.test(config.commandLine)
      ? config.commandLine
      : `${config.commandLine} tsc_early_khz=${tscKhz}`,
  ];
  if (source?.initrd_path !== undefined) args.push("-initrd", source.initrd_path);
  const serial = config.serial?.serial_out_path;
  args.push(
    "-chardev",
    serial === undefined ? "stdio,id=serial,signal=off" : `file,id=serial,path=${escaped(serial)}`,
    "-serial",
    "chardev:serial",
  );
  if (hasReadOnlyDrives(config)) {
    const node = fileNode(resizeNode, "/dev/fdset/1", false, true);
    args.push("-add-fd", `fd=${resizeFd},set=1`, "-blockdev", JSON.stringify(node));
  }
  // The guest finds the highest bus first.
  let bus = isLarge ? slots.large : slots.small;
  const nextBus = (): string => {
    bus -= 1;
    return `virtio-mmio-bus.${bus}`;
  };
  for (const drive of config.drives) {
    const isReadOnly = drive.is_read_only === true;
    const isUnsafe = drive.cache_type === "Unsafe";
    const file = `file-${drive.drive_id}-0`;
    args.push(
      "-blockdev",
      JSON.stringify(fileNode(file, drive.path_on_host ?? "", isReadOnly, isUnsafe)),
      "-blockdev",
      JSON.stringify(formatNode(drive.drive_id, file, isReadOnly, isUnsafe)),
      "-device",
      `virtio-blk-device,id=blk-${drive.drive_id},drive=${driveNode(drive.drive_id)},bus=${nextBus()}`,
    );
  }
  for (const [index, device] of config.interfaces.entries()) {
    const mac = device.guest_mac === undefined ? "" : `,mac=${device.guest_mac}`;
    const mtu = device.mtu === undefined ? "" : `,host_mtu=${device.mtu}`;
    args.push(
      "-netdev",
      `tap,id=tap-${device.iface_id},fd=${firstTapFd + index}`,
      "-device",
      `virtio-net-device,id=net-${device.iface_id},netdev=tap-${device.iface_id},bus=${nextBus()}${mac}${mtu}`,
    );
  }
  if (vhostSocket !== undefined) {
    args.push(
      "-chardev",
      `socket,id=vsock,path=${escaped(vhostSocket)}`,
      "-device",
      `vhost-user-vsock-device,id=vsock0,chardev=vsock,bus=${nextBus()}`,
    );
  }
  if (config.entropy !== undefined)
    args.push(
      "-object",
      "rng-builtin,id=rng",
      "-device",
      `virtio-rng-device,id=rng0,rng=rng,bus=${nextBus()}`,
    );
  return args;
}
