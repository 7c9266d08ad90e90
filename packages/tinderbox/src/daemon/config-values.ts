/** Values and tables of the configuration file, checked; what is allowed is in the words of the errors. */
import * as v from "valibot";

/** An absolute path of a file or directory. */
export const absolute = v.pipe(
  v.string("an absolute path"),
  v.regex(/^\/(?!$)[^\0]*$/, "an absolute path other than /"),
  v.check((path) => !path.split("/").includes(".."), "a path without `..`"),
);

/** A whole number. */
export const count = (min: number, max: number) => {
  const allowed = `a whole number from ${min} to ${max}`;
  return v.pipe(v.number(allowed), v.integer(allowed), v.minValue(min, allowed), v.maxValue(max, allowed));
};

/** How many letters to change, add or take away to make one word of the other. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, n) => n);
  for (const [n, letter] of [...from].entries()) {
    const next = [n + 1];
    for (const [m, other] of [...to].entries())
      next.push(
        Math.min((row[m] ?? 0) + (letter === other ? 0 : 1), (row[m + 1] ?? 0) + 1, (next[m] ?? 0) + 1),
      );
    row = next;
  }
  return row[to.length] ?? 0;
}

/** The key that was meant, if one is near. */
function suggestion(key: string, known: readonly string[]): string {
  const distance = (word: string): number => editDistance(key.slice(0, 64).toLowerCase(), word);
  const [nearest] = known.toSorted((a, b) => distance(a) - distance(b));
  return nearest !== undefined && distance(nearest) <= 3 ? `did you mean ${nearest}? ` : "";
}

/** A table that says which keys it knows when it meets another one. */
export function table<const E extends v.ObjectEntries>(entries: E) {
  const known = Object.keys(entries);
  return v.strictObject(entries, (issue) => {
    if (issue.expected === "never")
      return `unknown key; ${suggestion(String(issue.input), known)}known here: ${known.join(", ")}`;
    return issue.received === "undefined" ? "this key must be there" : "a table";
  });
}
