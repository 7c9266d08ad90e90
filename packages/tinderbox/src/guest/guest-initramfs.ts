/**
 * The content of a microVM's initramfs: the agent as /init, crun with its libraries, and the kernel modules with the
 * order in which the agent loads them (/etc/tinderbox/modules, a path a line). Same input, same bytes.
 */
import type { KernelModule } from "./kernel-modules.ts";
import { type NewcEntry, writeNewcArchive } from "./newc-archive.ts";
import type { ProgramFile } from "./shared-libraries.ts";

/** Where the guest's files are. */
export const modulesListPath = "etc/tinderbox/modules";

const mountPoints: readonly string[] = ["proc", "sys", "dev", "run", "mnt", "root", "var", "sbin", "bin"];

/** What every initramfs starts with: mount points and the devices the kernel opens before /init mounts /dev. */
export function baseEntries(): NewcEntry[] {
  return [
    ...mountPoints.map((path): NewcEntry => ({ kind: "directory", path, mode: 0o755 })),
    { kind: "directory", path: "tmp", mode: 0o1777 },
    { kind: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
    { kind: "character-device", path: "dev/null", mode: 0o666, major: 1, minor: 3 },
  ];
}

/** The modules below /lib/modules/RELEASE, and the list of their paths in load order. */
export function moduleEntries(release: string, modules: readonly KernelModule[]): NewcEntry[] {
  const place = (module: KernelModule): string => `lib/modules/${release}/${module.path}`;
  const list = modules.map((module) => `/${place(module)}\n`).join("");
  return [
    ...modules.map(
      (module): NewcEntry => ({ kind: "file", path: place(module), mode: 0o644, content: module.content }),
    ),
    { kind: "file", path: modulesListPath, mode: 0o644, content: Buffer.from(list) },
  ];
}

/** What the initramfs is made of. */
export type GuestInitramfsInput = {
  readonly kernelRelease: string;
  /** In load order */
  readonly modules: readonly KernelModule[];
  /** The agent, a static program */
  readonly native: Buffer;
  /** crun first, then what it needs */
  readonly crun: readonly ProgramFile[];
};

const passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const group = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";

/** The initramfs as an uncompressed cpio archive. */
export function makeGuestInitramfs(input: GuestInitramfsInput): Buffer {
  const [crun, ...libraries] = input.crun;
  const file = (path: string, mode: number, content: Uint8Array): NewcEntry => ({
    kind: "file",
    path,
    mode,
    content,
  });
  return writeNewcArchive([
    ...baseEntries(),
    ...moduleEntries(input.kernelRelease, input.modules),
    file("init", 0o755, input.native),
    { kind: "symlink", path: "usr/bin/tinderbox-native", target: "/init" },
    ...(crun ? [file("usr/bin/crun", 0o755, crun.content)] : []),
    ...libraries.map(({ path, content }) => file(path.slice(1), 0o755, content)),
    file("etc/passwd", 0o644, Buffer.from(passwd)),
    file("etc/group", 0o644, Buffer.from(group)),
  ]);
}
