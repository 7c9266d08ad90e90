// What Firecracker does and QEMU's microvm machine has no way for. Refused by the request that asks for it, by name and with why.
// A line goes when the thing works.
import { Fault } from "../fault.ts";

const reasons = {
  "cpu-config": "QEMU has its own CPU models, and no masks for CPUID leaves and MSRs",
  cpu_template: "QEMU has its own CPU models, and no masks for CPUID leaves and MSRs",
  "hotplug/memory":
    "QEMU 7.2's microvm machine takes a virtio-mem device, but never maps its memory into the guest",
  "entropy ops": "QEMU limits what an entropy device gives by bytes in a time, `bandwidth`, only",
  "entropy one_time_burst": "QEMU limits what an entropy device gives by bytes in a time only",
  free_page_hinting: "QEMU asks a guest for hints only while it migrates it",
  pmem: "QEMU has the virtio-pmem device for PCI only, and the microvm machine is used without PCI",
  socket: "vhost-user drives would need a second process with access to the guest's memory",
} as const;

/** The refusal of `what`, a field or a resource; `value` is what was asked for. */
export function unsupported(what: keyof typeof reasons, value = ""): Fault {
  const asked = value === "" ? `\`${what}\`` : `\`${what}\` ${value}`;
  return new Fault(`${asked} is not supported by firecracker-qemu: ${reasons[what]}.`);
}
