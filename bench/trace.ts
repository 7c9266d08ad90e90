/** What RunPodSandbox, CreateContainer, StartContainer and ExecSync are made of: the daemon's spans of the median call. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Span } from "../packages/tinderbox/src/base/trace.ts";
import { TestCri } from "../tests/support/cri-client.ts";
import { BenchPod, type Contender } from "./cri-pod.ts";
import type { Stage } from "./stage.ts";

const methods = ["RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync"] as const;

/** Ids, random names and numbers say nothing to a reader; paths are known by their ends. */
function readable(text: string): string {
  return text
    .replace(/\/\S*\//g, "…/")
    .replace(/[0-9a-f]{16,}/g, "ID")
    .slice(0, 110);
}

function linesOf(spans: readonly Span[], root: Span): readonly string[] {
  const inside = (parent: Span, depth: number): readonly string[] =>
    spans
      // What goes on when the call has been answered is not a part of it.
      .filter((span) => span.parent === parent.id && span.startMs <= root.startMs + root.durationMs)
      .sort((a, b) => a.startMs - b.startMs)
      .flatMap((span) => {
        const at = (span.startMs - root.startMs).toFixed(1).padStart(8);
        const took = span.durationMs.toFixed(1).padStart(8);
        const what = `${"  ".repeat(depth)}${span.kind}: ${readable(span.detail)}`;
        return [`${at} ${took}  ${what}`, ...inside(span, depth + 1)];
      });
  return inside(root, 0);
}

function medianOf(spans: readonly Span[], method: string): Span {
  const roots = spans.filter(({ kind, detail }) => kind === "rpc" && detail === method);
  const found = roots.sort((a, b) => a.durationMs - b.durationMs)[roots.length >> 1];
  if (found === undefined) throw new Error(`no ${method} in the trace`);
  return found;
}

/** Text for each handler and call: ms since its start, its duration, what it is. */
export async function traces(
  work: string,
  stage: Stage,
  rounds: number,
  say: (text: string) => void,
): Promise<string> {
  const parts: string[] = [];
  for (const handler of ["crun", "firecracker"]) {
    const file = join(work, `trace-${handler}.jsonl`);
    const daemon = await stage.startAnother(`traced-${handler}`, { TINDERBOX_TRACE: file });
    using cri = new TestCri(daemon.socket, join(work, `traced-${handler}`));
    await cri.pull(stage.small);
    const traced: Contender = { label: handler, cri, handler, pid: daemon.child.pid ?? 0 };
    for (let round = 0; round <= rounds; round++) {
      say(`trace of ${handler}: pod ${round + 1} of ${rounds + 1}`);
      const pod = new BenchPod(traced);
      try {
        await pod.run();
        await pod.startContainer(stage.small, ["sleep", "600"]);
        await pod.exec("true");
      } finally {
        await pod.remove();
      }
    }
    const spans = readFileSync(file, "utf8")
      .trimEnd()
      .split("\n")
      // Written by base/trace.ts alone
      .map((line) => JSON.parse(line) as Span);
    for (const method of methods) {
      const root = medianOf(spans, method);
      parts.push(
        `${method}, ${handler}: ${root.durationMs.toFixed(1)} ms\n\n      at     took  (ms)\n${linesOf(spans, root).join("\n")}\n`,
      );
    }
  }
  return parts.join("\n");
}
