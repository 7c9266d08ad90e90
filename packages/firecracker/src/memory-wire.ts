/** Bodies of the balloon and memory hot-plug endpoints, spelled as on the wire. */

/** A virtio-balloon device. */
export type BalloonWire = {
  /** MiB taken from the guest, at most the machine's memory */
  readonly amount_mib: number;
  /** Whether the guest takes pages back rather than run out of memory */
  readonly deflate_on_oom: boolean;
  /** s; 0 = no statistics, which cannot be switched on later. @default 0 */
  readonly stats_polling_interval_s?: number;
  /** @default false; since 1.14, preview */
  readonly free_page_hinting?: boolean;
  /** @default false; since 1.14 */
  readonly free_page_reporting?: boolean;
};

/** Another target size, after start. */
export type BalloonPatchWire = {
  /** MiB */
  readonly amount_mib: number;
};

/** Another interval, after start; never from or to 0. */
export type BalloonStatisticsPatchWire = {
  /** s */
  readonly stats_polling_interval_s: number;
};

/** What the guest last said of its memory. It comes from the guest: never to be trusted for enforcement. */
export type BalloonStatisticsWire = {
  /** 4 KiB pages */
  readonly target_pages: number;
  /** 4 KiB pages */
  readonly actual_pages: number;
  /** MiB asked for */
  readonly target_mib: number;
  /** MiB taken */
  readonly actual_mib: number;
  /** bytes */
  readonly swap_in?: number;
  /** bytes */
  readonly swap_out?: number;
  /** Page faults that read a disk */
  readonly major_faults?: number;
  /** Page faults that did not */
  readonly minor_faults?: number;
  /** bytes */
  readonly free_memory?: number;
  /** bytes */
  readonly total_memory?: number;
  /** bytes */
  readonly available_memory?: number;
  /** bytes */
  readonly disk_caches?: number;
  /** Huge pages given out */
  readonly hugetlb_allocations?: number;
  /** Huge pages that could not be */
  readonly hugetlb_failures?: number;
  /** Processes killed for want of memory; this and the next five: guests from 6.12 */
  readonly oom_kill?: number;
  /** Allocations that had to wait */
  readonly alloc_stall?: number;
  /** Pages looked at in the background */
  readonly async_scan?: number;
  /** Pages looked at by who wants memory */
  readonly direct_scan?: number;
  /** Pages freed in the background */
  readonly async_reclaim?: number;
  /** Pages freed by who wants memory */
  readonly direct_reclaim?: number;
};

/** How to run free page hinting; since 1.14. */
export type HintingStartWire = {
  /** Whether the run ends by itself once the guest is done. @default true */
  readonly acknowledge_on_stop?: boolean;
};

/** Where a hinting run stands: 0 stopped, 1 done, others the run's number; since 1.14. */
export type HintingStatusWire = {
  /** What the VMM asked for last */
  readonly host_cmd: number;
  /** What the guest answered last; absent or null before its first answer */
  readonly guest_cmd?: number | null;
};

/** A virtio-mem device, since 1.14: memory beyond the machine's own. */
export type MemoryHotplugWire = {
  /** MiB, a multiple of the slot size */
  readonly total_size_mib: number;
  /** MiB the guest plugs at a time: a power of two, >= 2. @default 2 */
  readonly block_size_mib?: number;
  /** MiB the host maps at a time: >= 128, a multiple of the block size. @default 128 */
  readonly slot_size_mib?: number;
};

/** How much of it the guest shall have, after start. Takes effect in the guest's time. */
export type MemoryHotplugPatchWire = {
  /** MiB, a multiple of the block size, at most the total */
  readonly requested_size_mib: number;
};

/** How much of it the guest has. */
export type MemoryHotplugStatusWire = {
  /** MiB */
  readonly total_size_mib: number;
  /** MiB */
  readonly block_size_mib: number;
  /** MiB */
  readonly slot_size_mib: number;
  /** MiB that the guest has */
  readonly plugged_size_mib: number;
  /** MiB that it shall have */
  readonly requested_size_mib: number;
};
