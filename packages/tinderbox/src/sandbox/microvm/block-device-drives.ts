/** The block devices of a container as drives of its microVM. */

import { TinderboxError } from "../../base/errors.ts";
import type { BlockDeviceInit } from "../agent-sandbox.ts";
import type { ContainerSpec, SandboxRecord } from "../contract.ts";
import { openBlockDevice } from "./block-device.ts";
import type { DriveSlots } from "./drive-slots.ts";

/** Attaches them one by one; what the guest is to make of each. @throws INVALID, WRONG_STATE, LIMIT, UNSUPPORTED naming the field */
export async function attachDevices(
  { generation = 1 }: SandboxRecord,
  slots: DriveSlots,
  { id: containerId, blockDevices }: Pick<ContainerSpec, "id" | "blockDevices">,
): Promise<readonly BlockDeviceInit[]> {
  const attached: BlockDeviceInit[] = [];
  for (const { field, hostPath, containerPath, access, ...given } of blockDevices) {
    if (generation < 2)
      throw new TinderboxError(
        "UNSUPPORTED",
        `${field}: the pod was made by a version of Tinderbox that had no block devices in microVMs`,
        { hint: "Remove the pod and make it again." },
      );
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
