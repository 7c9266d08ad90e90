/** What a snapshot is written to and loaded from. */

/** Where a snapshot goes. Both files are made by the VMM; both must be trusted by whoever loads them. */
export type SnapshotOptions = {
  /** Host path of the VM's state */
  readonly statePath: string;
  /** Host path of the guest's memory */
  readonly memoryPath: string;
  /** diff: only pages written since the last one (preview, needs 1.15 to be sound). @default "full" */
  readonly kind?: "full" | "diff";
};

/** What a fresh VMM goes on from. Drives, taps and pmem files must be where they were, except for what is overridden. */
export type SnapshotLoadOptions = {
  /** Host path of the VM's state; the format of a release loads only there */
  readonly statePath: string;
  /**
   * The guest's memory: a file that stays unchanged for the VM's life (any number of machines can share it), or the
   * socket of a page fault handler that already listens (`spawnPageFaultHandler`).
   */
  readonly memory:
    | {
        /** Host path */
        readonly file: string;
      }
    | {
        /** Host path */
        readonly pageFaultSocket: string;
      };
  /** Interface id to the name of its tap now; since 1.12 */
  readonly taps?: Readonly<Record<string, string>>;
  /** Host path of its vsock's socket now; must not exist; since 1.16. @default where it was, which must be free */
  readonly vsockPath?: string;
  /** Whether the guest's clock jumps to now (x86, host kernel >= 5.16; since 1.14.4 and 1.15.1). @default false */
  readonly advanceClock?: boolean;
  /** Needed for exact diff snapshots of it. @default false; since 1.13 */
  readonly trackDirtyPages?: boolean;
  /** @default what it was; since 1.17 */
  readonly hugePages?: "None" | "Transparent" | "2M";
};
