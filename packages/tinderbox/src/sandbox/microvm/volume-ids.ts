/**
 * Whose a volume's files are in a microVM. The guest's kernel has each id of the pod's user namespace as the pod itself has
 * it, 0 for root (native/src/guest/pod.rs); so the server is told what each id on the disk is in the guest.
 */
import type { IdMapping } from "../../network/contract.ts";

/** Ids that there are */
const count = 0xffff_ffff;

type Move = { readonly from: number; readonly to: number; readonly length: number };

/** The host's ids in the guest: the pod's as the pod has them, and those whose place they take where these are on the host. */
function hostInGuest({ outside, length }: IdMapping): readonly Move[] {
  const end = outside + length;
  return [
    { from: 0, to: length, length: outside },
    { from: outside, to: 0, length },
    { from: end, to: end, length: count - end },
  ].filter((move) => move.length > 0);
}

/**
 * Lines for the volume server: `inside` an id on the disk, `outside` what it is in the guest; what is in none is nobody's.
 * No line: ids are what they are. `mount` are the mount's own mappings, `inside` of which is on the disk, `outside` on the host.
 */
export function volumeIds(pod: IdMapping | undefined, mount: readonly IdMapping[]): readonly IdMapping[] {
  if (!pod) return mount;
  const inGuest = hostInGuest(pod);
  const onHost = mount.length > 0 ? mount : [{ inside: 0, outside: 0, length: count }];
  return onHost.flatMap(({ inside, outside, length }) =>
    inGuest.flatMap(({ from, to, length: moved }): IdMapping[] => {
      const start = Math.max(outside, from);
      const end = Math.min(outside + length, from + moved);
      if (end <= start) return [];
      return [{ inside: inside + start - outside, outside: to + start - from, length: end - start }];
    }),
  );
}
