/** The `info` map of verbose answers: one key, whose value is JSON. */
export function verboseInfo(wanted: boolean, value: object): Record<string, string> {
  if (!wanted) return {};
  return { info: JSON.stringify(value, (_, one: unknown) => (typeof one === "bigint" ? String(one) : one)) };
}
