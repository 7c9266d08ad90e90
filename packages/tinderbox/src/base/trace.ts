/**
 * What a call of the daemon is made of, with durations: a line of JSON for each span in the file that TINDERBOX_TRACE
 * names (`make bench ARGS="--only trace"` prints it). Without the variable nothing is recorded, and nothing but a test of it is run.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { appendFileSync } from "node:fs";

/** Written when it ends, so after those inside it. Times in ms of the process's own clock. */
export type Span = {
  readonly id: number;
  /** The span that it is inside of; 0 for none */
  readonly parent: number;
  /** `rpc`, `run` (a program), `agent` (a request to it), `write` (to a disk), `vmm` */
  readonly kind: string;
  readonly detail: string;
  readonly startMs: number;
  readonly durationMs: number;
};

const path = process.env["TINDERBOX_TRACE"];
const around = path === undefined ? undefined : new AsyncLocalStorage<number>();
let lastId = 0;

/** Does `work`; with a trace, writes down how long it took, be it a promise or not. A detail that has to be made is made for a trace alone. */
export function span<T>(kind: string, detail: string | (() => string), work: () => T): T {
  if (path === undefined || around === undefined) return work();
  const id = ++lastId;
  const parent = around.getStore() ?? 0;
  const startMs = performance.now();
  const end = (): void => {
    const text = typeof detail === "string" ? detail : detail();
    const one: Span = { id, parent, kind, detail: text, startMs, durationMs: performance.now() - startMs };
    appendFileSync(path, `${JSON.stringify(one)}\n`);
  };
  let isPromise = false;
  try {
    const result = around.run(id, work);
    if (result instanceof Promise) {
      isPromise = true;
      // A rejection is the caller's to see.
      result.then(end, end);
    }
    return result;
  } finally {
    if (!isPromise) end();
  }
}
