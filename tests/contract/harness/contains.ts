// Whether an answer's JSON has what a row shows: of objects the fields that are named, of arrays all elements.

/** An array whose order does not matter. */
export class AnyOrder {
  readonly items: readonly unknown[];
  constructor(...items: readonly unknown[]) {
    this.items = items;
  }
}

const entriesOf = (value: unknown): ReadonlyMap<string, unknown> | undefined =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? new Map(Object.entries(value))
    : undefined;

function lengthDiffers(
  actual: readonly unknown[],
  expected: readonly unknown[],
  at: string,
): string | undefined {
  return actual.length === expected.length
    ? undefined
    : `${at} has ${actual.length} elements, not ${expected.length}`;
}

/** What `actual` lacks of `expected`, with its place; undefined when nothing. */
export function lacks(actual: unknown, expected: unknown, at = "body"): string | undefined {
  if (expected instanceof AnyOrder) {
    if (!Array.isArray(actual)) return `${at} is no array`;
    const rest: unknown[] = [...actual];
    for (const [index, item] of expected.items.entries()) {
      const found = rest.findIndex((one) => lacks(one, item) === undefined);
      if (found < 0) return `${at} has nothing like element ${index}`;
      rest.splice(found, 1);
    }
    return lengthDiffers(actual, expected.items, at);
  }
  if (Array.isArray(expected)) {
    if (!Array.isArray(actual)) return `${at} is no array`;
    const difference = lengthDiffers(actual, expected, at);
    if (difference !== undefined) return difference;
    return expected
      .map((item, index) => lacks(actual[index], item, `${at}[${index}]`))
      .find((one) => one !== undefined);
  }
  const [own, wanted] = [entriesOf(actual), entriesOf(expected)];
  if (wanted === undefined)
    return Object.is(actual, expected)
      ? undefined
      : `${at} is ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`;
  if (own === undefined) return `${at} is no object`;
  for (const [key, value] of wanted) {
    if (!own.has(key)) return `${at}.${key} is missing`;
    const difference = lacks(own.get(key), value, `${at}.${key}`);
    if (difference !== undefined) return difference;
  }
  return undefined;
}
