/**
 * The initramfs of a plain microVM, without an agent: loads the drivers that distributions build as modules, mounts
 * the root drive and hands over to its init. A kernel with everything built in needs none of this.
 */
import { baseEntries, moduleEntries, modulesListPath } from "./guest-initramfs.ts";
import type { KernelModule } from "./kernel-modules.ts";
import { writeNewcArchive } from "./newc-archive.ts";

// Boot arguments as the kernel would take them itself: root=, rootfstype=, ro, init=. Firecracker adds `root=/dev/vda`.
const init = `#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
fail() {
  echo "initramfs: $1" >/dev/kmsg
  busybox reboot -f
}
while read -r module; do
  busybox insmod "$module" || echo "initramfs: $module was not loaded" >/dev/kmsg
done </${modulesListPath}
root=/dev/vda init=/sbin/init access=rw type=ext4
for argument in $(busybox cat /proc/cmdline); do
  case $argument in
    root=/dev/*) root=\${argument#root=} ;;
    rootfstype=*) type=\${argument#rootfstype=} ;;
    init=*) init=\${argument#init=} ;;
    ro | rw) access=$argument ;;
  esac
done
tries=0
until [ -b "$root" ]; do
  tries=$((tries + 1))
  [ $tries -le 100 ] || fail "no $root after 5 s"
  busybox usleep 50000
done
busybox mount -t "$type" -o "$access" "$root" /mnt || fail "cannot mount $root ($type, $access)"
[ -d /mnt/dev ] && busybox mount --move /dev /mnt/dev
busybox umount /proc
exec busybox switch_root /mnt "$init"
`;

/** What the initramfs is made of. */
export type PlainInitramfsInput = {
  readonly kernelRelease: string;
  /** In load order */
  readonly modules: readonly KernelModule[];
  /** A static busybox */
  readonly busybox: Buffer;
};

/** The initramfs as an uncompressed cpio archive. */
export function makePlainInitramfs(input: PlainInitramfsInput): Buffer {
  return writeNewcArchive([
    ...baseEntries(),
    ...moduleEntries(input.kernelRelease, input.modules),
    { kind: "file", path: "bin/busybox", mode: 0o755, content: input.busybox },
    { kind: "file", path: "init", mode: 0o755, content: Buffer.from(init) },
  ]);
}
