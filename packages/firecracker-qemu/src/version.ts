// The Firecracker release whose API this is: bodies have its fields, no newer ones.

/** As GET /version and --version tell it */
export const vmmVersion = "1.17.0";
/** The snapshot format of that release, as --snapshot-version tells it; our files have one of their own inside */
export const snapshotVersion = "11.0.0";
