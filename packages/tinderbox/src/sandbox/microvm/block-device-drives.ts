/** The block devices of a container as drives of its microVM. */
import type { BlockDeviceInit } from "../agent-sandbox.ts";
import type { ContainerBlockDevice } from "../contract.ts";
import { openBlockDevice } from "./block-device.ts";
import type { DriveSlots } from "./drive-slots.ts";

/** Attaches them one by one; what the guest is to make of each. @throws INVALID, WRONG_STATE, LIMIT naming the field */
export async function attachDevices(
  slots: DriveSlots,
  containerId: string,
  devices: readonly ContainerBlockDevice[],
): Promise<readonly BlockDeviceInit[]> {
  const attached: BlockDeviceInit[] = [];
  for (const { field, hostPath, containerPath, access, ...given } of devices) {
    const device = await openBlockDevice(field, hostPath);
    try {
      const { mode, uid, gid } = { ...device, ...given };
      const drive = await slots.acquireDevice(containerId, device, access.includes("w"));
      attached.push({ path: containerPath, ...drive, access, mode, uid, gid });
    } finally {
      await device.close();
    }
  }
  return attached;
}
