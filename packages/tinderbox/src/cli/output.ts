/** What the CLI prints: aligned tables and JSON. */

/** Columns as wide as their widest cell; the last one is not padded. */
export function formatTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? "").length)));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join("  ");
  return `${all.map(line).join("\n")}\n`;
}

const units = [
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
] as const;

/** "3 minutes ago", from two times in nanoseconds since 1970. */
export function formatAge(atNs: bigint, nowNs: bigint): string {
  const seconds = Math.max(0, Number((nowNs - atNs) / 1_000_000_000n));
  for (const [name, size] of units) {
    const count = Math.floor(seconds / size);
    if (count > 0) return `${count} ${name}${count === 1 ? "" : "s"} ago`;
  }
  return "now";
}

/** "4.2 MiB" */
export function formatBytes(bytes: bigint): string {
  let value = Number(bytes);
  for (const unit of ["B", "KiB", "MiB"]) {
    if (value < 1024) return `${unit === "B" ? value : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} GiB`;
}

/** The time now, as CRI has it. */
export function nowNs(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

export function shortId(id: string): string {
  return id.replace(/^sha256:/, "").slice(0, 13);
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
