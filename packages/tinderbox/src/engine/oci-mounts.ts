/** The mounts of a container: what every one has, the files sent along, and what the request asks for. */
import type { Mount } from "./contract.ts";
import { guestVolumeSource } from "./guest-volumes.ts";
import { preparedName } from "./volumes.ts";

export type OciMount = {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
};

export type MountFacts = {
  readonly privileged: boolean;
  /** What the containers of the pod share as /dev/shm: the place's path; undefined: nothing */
  readonly shmPath: string | undefined;
  readonly hasCgroupV2: boolean;
  /** In a microVM a path is a volume that the host serves, read-only where it is to be */
  readonly inGuest: boolean;
  /** names sent along, to the path they appear at */
  readonly files: Readonly<Record<string, string>>;
  readonly requested: readonly Mount[];
};

function sourceOf(mount: Mount, n: number): string {
  const name = preparedName(mount, n);
  if (name !== undefined) return `@mounts/${name}`;
  // An image is always prepared.
  return mount.source.kind === "path" ? mount.source.path : "";
}

const depth = (path: string): number => path.split("/").filter((part) => part !== "").length;

/** In the order they are to be made: a mount never hides one made before it. */
export function ociMounts(facts: MountFacts): readonly OciMount[] {
  const safe = ["nosuid", "noexec", "nodev"];
  const access = facts.privileged ? "rw" : "ro";
  const standard: OciMount[] = [
    { destination: "/proc", type: "proc", source: "proc", options: safe },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: safe },
    facts.shmPath === undefined
      ? {
          destination: "/dev/shm",
          type: "tmpfs",
          source: "shm",
          options: [...safe, "mode=1777", "size=65536k"],
        }
      : {
          destination: "/dev/shm",
          type: "bind",
          source: facts.shmPath,
          options: ["bind", "rprivate", "rw", ...safe],
        },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: [...safe, access] },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: [...safe, "relatime", access],
    },
  ];
  const requested = facts.requested
    .map(
      (mount, n): OciMount => ({
        destination: mount.containerPath,
        type: "bind",
        ...(facts.inGuest && mount.source.kind === "path"
          ? { source: guestVolumeSource(n), options: ["rbind", "rprivate"] }
          : {
              source: sourceOf(mount, n),
              options: [
                "rbind",
                mount.propagation === "private" ? "rprivate" : mount.propagation,
                mount.readonly ? "ro" : "rw",
              ],
            }),
      }),
    )
    .sort((a, b) => depth(a.destination) - depth(b.destination));
  const taken = new Set(requested.map((mount) => mount.destination));
  const files = Object.entries(facts.files)
    .filter(([, destination]) => !taken.has(destination))
    .map(
      ([name, destination]): OciMount => ({
        destination,
        type: "bind",
        source: `@files/${name}`,
        options: ["bind", "rprivate", "rw", "nosuid", "nodev", "noexec"],
      }),
    );
  return [...standard.filter((mount) => !taken.has(mount.destination)), ...files, ...requested];
}
