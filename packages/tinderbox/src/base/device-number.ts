/** The two parts of the kernel's device numbers. */
export type DeviceNumber = { readonly major: number; readonly minor: number };

/** Of `st_rdev`, as glibc's gnu_dev_major and gnu_dev_minor take it apart. */
export function deviceNumber(rdev: bigint): DeviceNumber {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  return { major: Number(major), minor: Number(minor) };
}
