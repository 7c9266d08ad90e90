// The Firecracker release whose API this is: bodies have its fields, no newer ones.

/** As GET /version and --version tell it */
export const vmmVersion = "1.17.0";
