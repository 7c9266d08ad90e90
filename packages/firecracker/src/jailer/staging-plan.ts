/** How one file of the host comes into a jail: a pure choice by what it is, what is wanted of it and who may touch it. */

/**
 * `link`: a second name of the same file; same file system only. `bind`: a bind mount, read-only for `ro`.
 * `copy`: a file of the jail's own, sharing blocks where the file system can (reflink). `node`: a device node of the jail's own.
 */
export type StagingMethod = "link" | "bind" | "copy" | "node";

/** `ro`: the VMM reads it. `rw`: the VMM's writes must reach the host's file. */
export type StagingAccess = "ro" | "rw";

/** What stat(2) says of the host's file. */
export type StagedFileFacts = {
  /** `channel`: a unix socket or a FIFO */
  readonly kind: "file" | "block" | "channel";
  /** Its owner */
  readonly uid: number;
  /** Its group */
  readonly gid: number;
  /** Permission bits */
  readonly mode: number;
};

/** How to stage one file. */
export type StagingPlan = {
  /** In the order to be tried; never empty */
  readonly methods: readonly StagingMethod[];
  /** The host's own file must be given to the jail's user for as long as the jail is there */
  readonly takeOwnership: boolean;
};

function permits(facts: StagedFileFacts, uid: number, gid: number, bit: 4 | 2): boolean {
  if (uid === 0) return true;
  const shift = facts.uid === uid ? 6 : facts.gid === gid ? 3 : 0;
  return (facts.mode & (bit << shift)) !== 0;
}

/**
 * The methods for a file. What the VMM only reads must not be writable from the jail, so a link is out where the
 * jail's user could write; what it cannot read is copied rather than given away. What it writes is never copied
 * unasked: the writes would end with the jail.
 */
export function planStaging(
  facts: StagedFileFacts,
  access: StagingAccess,
  user: { readonly uid: number; readonly gid: number },
  asked?: StagingMethod,
): StagingPlan {
  const mayRead = permits(facts, user.uid, user.gid, 4);
  const mayWrite = permits(facts, user.uid, user.gid, 2);
  const mayChange = mayWrite || facts.uid === user.uid;
  const shares = (method: StagingMethod | undefined): boolean => method === "link" || method === "bind";
  const lacks = access === "rw" || facts.kind === "channel" ? !(mayRead && mayWrite) : !mayRead;
  if (asked !== undefined) return { methods: [asked], takeOwnership: shares(asked) && lacks };
  if (facts.kind === "block") return { methods: ["node"], takeOwnership: false };
  if (facts.kind === "channel" || access === "rw") return { methods: ["link", "bind"], takeOwnership: lacks };
  if (!mayRead) return { methods: ["copy"], takeOwnership: false };
  return { methods: mayChange ? ["bind", "copy"] : ["link", "bind", "copy"], takeOwnership: false };
}
