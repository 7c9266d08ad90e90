/** Names of CDI devices: `vendor.com/class=name`. */

const maxVendorChars = 253;
const maxNameChars = 63;

const isVendor = (text: string): boolean =>
  text.length <= maxVendorChars &&
  /^[A-Za-z]/.test(text) &&
  text.split(".").every((label) => /^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$/.test(label));

/** What `kind` of a file is made of. */
export function isKind(text: string): boolean {
  const [vendor = "", name = "", ...more] = text.split("/");
  return (
    more.length === 0 &&
    isVendor(vendor) &&
    name.length <= maxNameChars &&
    /^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$/.test(name)
  );
}

/** The part behind `=`. */
export function isDeviceName(text: string): boolean {
  return text.length <= maxVendorChars && /^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$/.test(text);
}

/** A whole name; undefined for anything else. */
export function parseQualifiedName(
  text: string,
): { readonly kind: string; readonly device: string } | undefined {
  const at = text.indexOf("=");
  const [kind, device] = [text.slice(0, Math.max(at, 0)), text.slice(at + 1)];
  return isKind(kind) && isDeviceName(device) ? { kind, device } : undefined;
}
