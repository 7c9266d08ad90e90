/**
 * The AppArmor profile of containers that name none. Namespaces, capabilities, masked paths and seccomp confine them already; this
 * takes what is left when one of those is given away: the kernel's settings that are in no namespace, mounting, and other containers' processes.
 * It includes no file of the host, so it means the same on every distribution.
 */
export function defaultProfileText(name: string): string {
  return `profile ${name} flags=(attach_disconnected,mediate_deleted) {
  # Everything that other means confine
  file,
  network,
  unix,
  capability,
  umount,

  # The daemon's side ends containers; among themselves they may
  signal (receive) peer=unconfined,
  signal (receive) peer={crun,runc,/usr/bin/crun,/usr/bin/runc,/usr/sbin/runc},
  signal (send, receive) peer=${name},
  ptrace (trace, read, tracedby, readby) peer=${name},

  deny mount,

  # Files of /proc itself, as sysrq-trigger, and its directories that are neither a process's nor sys
  deny /proc/* w,
  deny /proc/{sysrq-trigger,kcore,kmem,mem} rwklx,
  deny /proc/[^0-9s]*/** w,
  deny /proc/s[^ye]*/** w,

  # Settings: a container's own are shm*, msg* and sem of kernel, fs/mqueue and net
  deny /proc/sys/[^fkn]*/** w,
  deny /proc/sys/fs/[^m]** w,
  deny /proc/sys/kernel/[^ms]** w,
  deny /proc/sys/kernel/m[^s]** w,
  deny /proc/sys/kernel/s[^he]** w,
  deny /proc/sys/kernel/seccomp/** w,

  # /sys but its cgroups
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`;
}
