/** Host directories and files in a microVM: what of CRI's mounts a guest can have, and by which name its agent knows them. */
import { TinderboxError } from "../base/errors.ts";
import type { ContainerVolume } from "../sandbox/contract.ts";
import type { ContainerConfig, Mount } from "./contract.ts";

/** The OCI mount's source, for the container's n-th mount. */
export const guestVolumeSource = (n: number): string => `@volumes/${n}`;

function checkPropagation(mount: Mount, n: number): "private" | "rslave" {
  if (mount.propagation !== "rshared") return mount.propagation;
  throw new TinderboxError(
    "INVALID",
    `mounts[${n}].propagation PROPAGATION_BIDIRECTIONAL: not possible in a microVM, whose kernel mounts for itself; PROPAGATION_PRIVATE and PROPAGATION_HOST_TO_CONTAINER are`,
  );
}

/** The container's volumes as the sandbox serves them; images are none of them. @throws INVALID for bidirectional propagation */
export function guestVolumes(config: ContainerConfig): readonly ContainerVolume[] {
  return config.mounts.flatMap((mount, n): ContainerVolume[] => {
    const { source, readonly, recursiveReadOnly, uidMappings, gidMappings } = mount;
    if (source.kind === "image") return [];
    const propagation = checkPropagation(mount, n);
    const given = { readonly, recursiveReadOnly, propagation, uidMappings, gidMappings };
    return [{ name: String(n), hostPath: source.path, ...given }];
  });
}
