/** What a run of critest says, held against the list of specs that are not expected to pass. */

export type SpecResult = { readonly name: string; readonly status: "passed" | "failed" | "skipped" };
type Exception = {
  readonly reason: string;
  /** What it may do: not pass, do as it likes, or pass where it does not skip itself */
  readonly kind: "fails" | "any" | "skips";
};
/** By spec name */
export type Exceptions = ReadonlyMap<string, Exception>;

const entities: Readonly<Record<string, string>> = { quot: '"', apos: "'", lt: "<", gt: ">", amp: "&" };

function plain(text: string): string {
  return text.replace(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (whole, decimal, hex, name) => {
    if (name !== undefined) return entities[name] ?? whole;
    return String.fromCodePoint(decimal === undefined ? Number.parseInt(hex, 16) : Number(decimal));
  });
}

/** The specs of a JUnit report of ginkgo; set-up nodes and benchmarks are left out. */
export function parseJunit(xml: string): readonly SpecResult[] {
  const found: SpecResult[] = [];
  for (const [, attributes = ""] of xml.matchAll(/<testcase\s([^>]*)>/g)) {
    const attribute = (name: string): string =>
      plain(new RegExp(`(?:^|\\s)${name}="([^"]*)"`).exec(attributes)?.[1] ?? "");
    const name = attribute("name");
    if (!name.startsWith("[It] ") || /benchmark/i.test(name)) continue;
    const said = attribute("status");
    const status =
      said === "passed" ? "passed" : said === "skipped" || said === "pending" ? "skipped" : "failed";
    found.push({ name: name.slice("[It] ".length).replace(/ \[[^\]]*\]$/, ""), status });
  }
  return found;
}

const kinds: Readonly<Record<string, Exception["kind"]>> = { "?": "any", "~": "skips" };

/**
 * Lines of `SPEC | REASON`; `#` begins a comment, `?` a spec that may pass on other hosts, `~` one that skips itself on some hosts and
 * passes on the others. @throws Error for a line without a reason
 */
export function parseExceptions(text: string): Exceptions {
  const list = new Map<string, Exception>();
  for (const line of text.split("\n")) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const at = line.lastIndexOf(" | ");
    if (at < 1) throw new Error(`${JSON.stringify(line)}: "SPEC | REASON" is expected`);
    const kind = kinds[line.charAt(0)];
    const name = line.slice(kind === undefined ? 0 : 1, at).trim();
    list.set(name, { reason: line.slice(at + 3).trim(), kind: kind ?? "fails" });
  }
  return list;
}

/** How many specs a report holds, and, where only some were run, how many of them pass. */
export type Expected = { readonly specs: number; readonly passes?: number };

/** Everything that is not as it should be, a line each. Without `expected` it was a run by hand of what somebody chose. */
export function judge(
  results: readonly SpecResult[],
  exceptions: Exceptions,
  expected: Expected | undefined,
): { readonly summary: string; readonly faults: readonly string[] } {
  const count = (status: SpecResult["status"]): number =>
    results.filter((one) => one.status === status).length;
  const isWhole = expected !== undefined && expected.passes === undefined;
  const faults = results.flatMap(({ name, status }) => {
    const kind = exceptions.get(name)?.kind;
    if (kind === "fails" && status === "passed") return [`passes, but is on the list: ${name}`];
    if (kind === "skips" && status === "failed") return [`fails where it does not skip itself: ${name}`];
    if (kind !== undefined) return [];
    if (status === "passed" || (status === "skipped" && !isWhole)) return [];
    return [`${status}: ${name}`];
  });
  const passed = count("passed");
  if (expected && results.length !== expected.specs)
    faults.push(`critest has ${results.length} specs, where ${expected.specs} are expected`);
  if (expected?.passes !== undefined && passed !== expected.passes)
    faults.push(`${passed} specs pass, where ${expected.passes} are expected`);
  if (isWhole) {
    const names = new Set(results.map(({ name }) => name));
    for (const name of exceptions.keys())
      if (!names.has(name)) faults.push(`on the list, but critest has no such spec: ${name}`);
  }
  if (passed === 0) faults.push("no spec passes");
  const summary = `${results.length} specs: ${passed} passed, ${count("failed")} failed, ${count("skipped")} skipped, of which ${faults.length} not as its list says`;
  return { summary, faults };
}

/** What passes in one report and not in the other, a line each. */
export function difference(one: readonly SpecResult[], other: readonly SpecResult[]): readonly string[] {
  const passed = new Set(other.filter(({ status }) => status === "passed").map(({ name }) => name));
  return one.filter(({ name, status }) => status === "passed" && !passed.has(name)).map(({ name }) => name);
}
