/** Figures of a benchmark: samples, their median, and what is printed of them. */

/** One duration in ms for each round. */
export type Samples = number[];

export function median(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const [low, high] = [sorted[(sorted.length - 1) >> 1], sorted[middle]];
  if (low === undefined || high === undefined) throw new Error("median of no samples");
  return (low + high) / 2;
}

/** The sample below which the part `q` of them is: 0.99 gives the 99th percentile. */
export function quantile(samples: readonly number[], q: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const found = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];
  if (found === undefined) throw new Error("quantile of no samples");
  return found;
}

/** Runs `work`, adds its duration in ms to `samples`. */
export async function timed<T>(samples: Samples, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  const result = await work();
  samples.push(performance.now() - started);
  return result;
}

/** One line of the result. `goal` bounds `ratio`, or `value` where there is no peer. */
export type Figure = {
  readonly name: string;
  readonly unit: "ms" | "MiB";
  readonly value: number;
  readonly peer?: { readonly name: string; readonly value: number };
  readonly goal?: number;
  /** All samples of the value, where there are several */
  readonly samples?: readonly number[];
};

/** What is compared with the goal. */
export function scoreOf(figure: Figure): number {
  return figure.peer ? figure.value / figure.peer.value : figure.value;
}

function cells(figure: Figure): string[] {
  const number = (value: number): string =>
    `${value.toFixed(value < 1 ? 2 : value < 10 ? 1 : 0)} ${figure.unit}`;
  const score = scoreOf(figure);
  const met = figure.goal === undefined ? "" : score <= figure.goal ? "met" : "missed";
  return [
    figure.name,
    number(figure.value),
    figure.peer ? `${number(figure.peer.value)} ${figure.peer.name}` : "",
    figure.peer ? score.toFixed(2) : "",
    figure.goal === undefined ? "" : `${figure.goal}${figure.peer ? "" : ` ${figure.unit}`} ${met}`,
  ];
}

/** The figures as a table for people, which is Markdown too. */
export function formatFigures(figures: readonly Figure[]): string {
  const rows = [["what", "tinderbox", "beside it", "ratio", "goal"], ...figures.map(cells)];
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(" | ")} |`;
  const [head = [], ...body] = rows;
  return [line(head), `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`, ...body.map(line)].join(
    "\n",
  );
}
