/** What a pod's microVM is made of, in Firecracker's own words. */
import { join } from "node:path";
import type { MachineConfiguration } from "@tinderbox/firecracker";
import { TinderboxError } from "../../base/errors.ts";
import type { SandboxRecord } from "../contract.ts";
import { type DriveCounts, driveId } from "./drive-slots.ts";

const guestCid = 3;

// Serial for the console's tail in errors, quiet so that it costs little; no probing for a keyboard controller;
// a guest that panics or reboots ends its VMM.
const baseBootArgs =
  "console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd cryptomgr.notests random.trust_cpu=on";

/** How many images and block devices a pod can use at the same time: with a network interface, one device less than a VMM has. */
export const placeholderCounts: DriveCounts = { readOnly: 8, writable: 4 };

export type MachineFiles = {
  /** Uncompressed ELF kernel */
  readonly kernel: string;
  readonly initrd: string;
  /** Appended to the kernel command line */
  readonly bootArgs: string;
};

/** The part of a sandbox's record that its machine is made of. */
export type MachineRecord = {
  readonly directory: string;
  readonly spec: Pick<SandboxRecord["spec"], "id" | "vcpus" | "memoryMib" | "network">;
};

/** The scratch drive, a placeholder for each image and block device that may come, the pod's taps, vsock and entropy. Drives are below the record's directory. */
export function machineConfiguration(
  record: MachineRecord,
  vsockPath: string,
  files: MachineFiles,
): MachineConfiguration {
  const { spec, directory } = record;
  const interfaces = spec.network.kind === "pod" ? spec.network.interfaces : [];
  const { readOnly, writable } = placeholderCounts;
  const placeholders = Array.from({ length: readOnly + writable }, (_, n) => ({
    drive_id: driveId(n + 1),
    is_root_device: false,
    path_on_host: join(directory, "placeholder"),
    // What a guest flushes to a block device has to be on it.
    ...(n < readOnly ? { is_read_only: true } : { is_read_only: false, cache_type: "Writeback" as const }),
  }));
  return {
    "machine-config": { vcpu_count: spec.vcpus, mem_size_mib: spec.memoryMib },
    "boot-source": {
      kernel_image_path: files.kernel,
      initrd_path: files.initrd,
      boot_args: `${baseBootArgs} ${files.bootArgs}`.trim(),
    },
    drives: [
      {
        drive_id: driveId(0),
        is_root_device: false,
        is_read_only: false,
        path_on_host: join(directory, "scratch.ext4"),
      },
      ...placeholders,
    ],
    "network-interfaces": interfaces.map((device, index) => {
      if (device.tap === undefined)
        throw new TinderboxError("INTERNAL", `interface ${device.name} of pod ${spec.id} has no tap`);
      return { iface_id: `net_${index}`, host_dev_name: device.tap, guest_mac: device.mac };
    }),
    vsock: { guest_cid: guestCid, uds_path: vsockPath },
    entropy: {},
  };
}
