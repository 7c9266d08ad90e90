/** Bodies of the snapshot endpoints, spelled as on the wire. */

/** Writes the state and memory of a paused VM. */
export type SnapshotCreateWire = {
  /** File for the VM's state */
  readonly snapshot_path: string;
  /** File for the guest's memory; for Diff sparse, or the base to be updated */
  readonly mem_file_path: string;
  /** Diff is a preview, sound from 1.15. @default "Full" */
  readonly snapshot_type?: "Full" | "Diff";
};

/** Where the guest's memory comes from. */
export type MemoryBackendWire = {
  /** Uffd: a page fault handler listens on the socket `backend_path` */
  readonly backend_type: "File" | "Uffd";
  /** A file must stay as it is for the VM's whole life */
  readonly backend_path: string;
};

/** Makes a fresh process go on from a snapshot. A failure also ends the process. */
export type SnapshotLoadWire = {
  /** File with the VM's state */
  readonly snapshot_path: string;
  /** Exclusive with `mem_file_path` */
  readonly mem_backend?: MemoryBackendWire;
  /** @deprecated use `mem_backend` */
  readonly mem_file_path?: string;
  /** Whether it runs at once. @default false */
  readonly resume_vm?: boolean;
  /** Needed for exact Diff snapshots of it. @default false; since 1.13 */
  readonly track_dirty_pages?: boolean;
  /** @deprecated `track_dirty_pages` from 1.13 */
  readonly enable_diff_snapshots?: boolean;
  /** Other taps for its interfaces; since 1.12 */
  readonly network_overrides?: readonly {
    /** Of an interface in the snapshot */
    readonly iface_id: string;
    /** Its tap now */
    readonly host_dev_name: string;
  }[];
  /** Another socket for its vsock; since 1.16 */
  readonly vsock_override?: {
    /** Must not exist */
    readonly uds_path: string;
  };
  /** Whether the guest's clock jumps to now (x86, host kernel >= 5.16). @default false; since 1.14.4 and 1.15.1 */
  readonly clock_realtime?: boolean;
  /** @default "Snapshot", what it was; since 1.17 */
  readonly huge_pages?: "Snapshot" | "None" | "Transparent" | "2M";
};
