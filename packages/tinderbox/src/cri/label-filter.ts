/** The label and id rules of every list call. */

/** Whether all wanted labels are there with these values. */
export function hasLabels(
  labels: Readonly<Record<string, string>>,
  wanted: Readonly<Record<string, string>> = {},
): boolean {
  return Object.entries(wanted).every(([key, value]) => labels[key] === value);
}

/** Whether an id is the one named in full or by a prefix; "" names all. */
export function matchesId(id: string, wanted = ""): boolean {
  return id.startsWith(wanted);
}
