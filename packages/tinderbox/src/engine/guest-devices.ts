/** The devices of a container in a microVM: block devices of the host, as drives. What is none, the sandbox refuses. */
import type { ContainerBlockDevice } from "../sandbox/contract.ts";
import type { ContainerConfig } from "./contract.ts";

/** The container's block devices as the sandbox attaches them. */
export function guestDevices(config: ContainerConfig): readonly ContainerBlockDevice[] {
  return config.devices.map(({ hostPath, containerPath, permissions }, n) => ({
    field: `devices[${n}]`,
    hostPath,
    containerPath,
    access: permissions,
  }));
}
