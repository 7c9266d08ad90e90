/**
 * What a checkpoint archive says of its container, in the files that CRI-O, containerd and checkpointctl share. CRIU's
 * images, its log and the changes of the root file system come from the process that dumps.
 */
import { stat } from "node:fs/promises";
import type { Container, Pod } from "./contract.ts";

/** A mount of an OCI spec, as far as it matters here */
type BindMount = { readonly destination: string; readonly type?: unknown; readonly source?: unknown };

function isMount(value: unknown): value is BindMount {
  return (
    typeof value === "object" &&
    value !== null &&
    "destination" in value &&
    typeof value.destination === "string"
  );
}

/** The mounts of an OCI configuration. */
export function mountsOf(spec: { readonly mounts?: unknown }): readonly BindMount[] {
  return Array.isArray(spec.mounts) ? spec.mounts.filter(isMount) : [];
}

/** What every container has, with or without a checkpoint. */
const ownMounts = new Set(["/dev", "/dev/shm", "/proc", "/run", "/run/secrets", "/sys"]);

async function bindMounts(mounts: readonly BindMount[]): Promise<readonly object[]> {
  const found: object[] = [];
  for (const { destination, type, source } of mounts) {
    if (type !== "bind" || typeof source !== "string" || ownMounts.has(destination)) continue;
    const info = await stat(source).catch(() => undefined);
    if (info === undefined) continue;
    const fileType = info.isDirectory() ? "directory" : "file";
    found.push({ source, destination, file_type: fileType, permissions: info.mode & 0o777 });
  }
  return found;
}

const rfc3339 = (ns: bigint): string => new Date(Number(ns / 1_000_000n)).toISOString();

/** The files by their names. `spec` is the OCI configuration that the container runs with. */
export async function archiveFiles(
  pod: Pod,
  container: Container,
  spec: { readonly mounts?: unknown; readonly annotations?: unknown },
): Promise<ReadonlyMap<string, unknown>> {
  const { config, phase } = container;
  const annotations = typeof spec.annotations === "object" ? spec.annotations : {};
  const startedAtNs = phase.kind === "created" ? 0n : phase.startedAtNs;
  const files = new Map<string, unknown>([
    [
      "config.dump",
      {
        id: container.id,
        name: config.name,
        rootfsImage: config.userImage,
        rootfsImageRef: container.imageRef,
        rootfsImageName: config.image,
        runtime: pod.handler,
        createdTime: rfc3339(container.createdAtNs),
        checkpointedTime: new Date().toISOString(),
        restoredTime: "0001-01-01T00:00:00Z",
        restored: false,
      },
    ],
    [
      "spec.dump",
      {
        ...spec,
        // Where tools look for the container's names.
        annotations: {
          ...annotations,
          "io.kubernetes.cri.container-type": "container",
          "io.kubernetes.cri.container-name": config.name,
          "io.kubernetes.cri.image-name": config.userImage,
          "io.kubernetes.cri.sandbox-id": pod.id,
          "io.kubernetes.cri.sandbox-name": pod.config.name,
          "io.kubernetes.cri.sandbox-namespace": pod.config.namespace,
          "io.kubernetes.cri.sandbox-uid": pod.config.uid,
        },
      },
    ],
    [
      "status",
      {
        CreatedAt: Number(container.createdAtNs),
        StartedAt: Number(startedAtNs),
        FinishedAt: 0,
        ExitCode: 0,
        Reason: "",
        Message: "",
      },
    ],
  ]);
  const mounts = await bindMounts(mountsOf(spec));
  if (mounts.length > 0) files.set("bind.mounts", mounts);
  return files;
}
