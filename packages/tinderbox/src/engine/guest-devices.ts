/** The devices of a container in a microVM: block devices of the host, as drives. What is none, the sandbox refuses. */
import { TinderboxError } from "../base/errors.ts";
import type { ContainerEdits } from "../cdi/contract.ts";
import type { ContainerBlockDevice } from "../sandbox/contract.ts";
import { guestCdiDevices } from "./cdi-edits.ts";
import type { ContainerConfig, PodConfig } from "./contract.ts";

/** The container's block devices, and those of its CDI devices, as the sandbox attaches them. @throws UNSUPPORTED for other edits of CDI devices, and in a user namespace */
export function guestDevices(
  pod: PodConfig,
  config: ContainerConfig,
  edits: ContainerEdits,
): readonly ContainerBlockDevice[] {
  const own = config.devices.map(({ hostPath, containerPath, permissions }, n) => ({
    field: `devices[${n}].host_path`,
    hostPath,
    containerPath,
    access: permissions,
  }));
  const all = [...own, ...guestCdiDevices(edits)];
  const [first] = all;
  // The runtime would bind whatever the guest has at the container's path: another drive, or none.
  if (first && pod.namespaces.user)
    throw new TinderboxError(
      "UNSUPPORTED",
      `${first.field} ${JSON.stringify(first.hostPath)}: not possible in a microVM's pod with a user namespace`,
    );
  return all;
}
