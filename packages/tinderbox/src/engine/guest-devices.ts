/** The devices of a container in a microVM: block devices of the host, as drives. What is none, the sandbox refuses. */
import type { ContainerEdits } from "../cdi/contract.ts";
import type { ContainerBlockDevice } from "../sandbox/contract.ts";
import { guestCdiDevices } from "./cdi-edits.ts";
import type { ContainerConfig } from "./contract.ts";

/** The container's block devices, and those of its CDI devices, as the sandbox attaches them. @throws UNSUPPORTED for other edits of CDI devices */
export function guestDevices(
  config: ContainerConfig,
  edits: ContainerEdits,
): readonly ContainerBlockDevice[] {
  const own = config.devices.map(({ hostPath, containerPath, permissions }, n) => ({
    field: `devices[${n}].host_path`,
    hostPath,
    containerPath,
    access: permissions,
  }));
  return [...own, ...guestCdiDevices(edits)];
}
