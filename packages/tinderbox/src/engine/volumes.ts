/** The volumes of a container that need more than a bind mount: images, id-mapped ones, recursively read-only ones. */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { TinderboxError } from "../base/errors.ts";
import type { Digest, ImageService } from "../image/contract.ts";
import type { PreparedMount } from "../sandbox/contract.ts";
import type { ContainerConfig, Mount } from "./contract.ts";

/** The name that the agent knows the container's n-th mount by, where the OCI runtime alone cannot make it. */
export function preparedName(mount: Mount, n: number): string | undefined {
  const isMapped = mount.uidMappings.length + mount.gidMappings.length > 0;
  return mount.source.kind === "image" || mount.recursiveReadOnly || isMapped ? `m${n}` : undefined;
}

/** Which images are volumes of the container. @throws NOT_FOUND: the kubelet pulls them first */
export function volumeImages(
  config: ContainerConfig,
  images: ImageService,
): Readonly<Record<number, Digest>> {
  const found: Record<number, Digest> = {};
  for (const [n, { source }] of config.mounts.entries()) {
    if (source.kind !== "image") continue;
    const image = images.get(source.image);
    if (!image)
      throw new TinderboxError(
        "NOT_FOUND",
        `ImageVolumeMountFailed: mounts[${n}].image ${JSON.stringify(source.image)} is not on this node`,
        { hint: "Pull it first." },
      );
    images.checkPolicy(image.id, source.notes?.userImage || source.image);
    found[n] = image.id;
  }
  return found;
}

/** What the agent is to make ready; the images are held by `owner`. In a microVM a path is a volume that the host serves. */
export function prepareMounts(
  config: ContainerConfig,
  volumes: Readonly<Record<number, Digest>>,
  images: ImageService,
  owner: string,
  place: "host" | "microvm",
): readonly PreparedMount[] {
  return config.mounts.flatMap((mount, n): PreparedMount[] => {
    const name = preparedName(mount, n);
    if (name === undefined) return [];
    const { source, recursiveReadOnly, uidMappings, gidMappings } = mount;
    const id = volumes[n];
    if (source.kind === "path" && place === "microvm") return [];
    if (source.kind === "path")
      return [{ name, source, subPath: "", recursiveReadOnly, uidMappings, gidMappings }];
    if (id === undefined) throw new TinderboxError("INTERNAL", `mounts[${n}]: no image is held for it`);
    const image = images.hold(id, owner);
    // In a guest its files are the pod's root's as it is.
    const ids = place === "microvm" ? { uidMappings: [], gidMappings: [] } : { uidMappings, gidMappings };
    return [{ name, source: { kind: "image", image }, subPath: source.subPath, recursiveReadOnly, ...ids }];
  });
}

/** Sources that are missing are made, as directories: users of CRI-O and Docker rely on it. */
export async function makeMissingSources(config: ContainerConfig): Promise<void> {
  for (const { source } of config.mounts)
    if (source.kind === "path" && !existsSync(source.path)) await mkdir(source.path, { recursive: true });
}
