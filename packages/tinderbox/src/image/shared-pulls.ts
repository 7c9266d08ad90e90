/** Callers that want the same pull at the same time wait for one; it ends when the last of them has gone. */
import { TinderboxError } from "../base/errors.ts";
import type { Image, PullOptions } from "./contract.ts";
import { nameOf, type Reference } from "./reference.ts";

type SharedPull = { readonly done: Promise<Image>; readonly stop: AbortController; waiters: number };

/** One pull, until `signal`. */
export type Pull = (
  reference: Reference,
  options: PullOptions & { readonly signal: AbortSignal },
) => Promise<Image>;

export class SharedPulls {
  readonly #pull: Pull;
  readonly #pulls = new Map<string, SharedPull>();

  constructor(pull: Pull) {
    this.#pull = pull;
  }

  /** Waits for the pull of `reference` with these credentials, begun by whoever was first. @throws as the pull, ABORTED */
  async pull(reference: Reference, options: PullOptions): Promise<Image> {
    const key = JSON.stringify([reference, options.auth ?? null, options.authServer ?? ""]);
    let shared = this.#pulls.get(key);
    if (!shared) {
      const stop = new AbortController();
      const done = this.#pull(reference, { ...options, signal: stop.signal });
      const own = { done, stop, waiters: 0 };
      shared = own;
      this.#pulls.set(key, own);
      const forget = (): void => {
        if (this.#pulls.get(key) === own) this.#pulls.delete(key);
      };
      stop.signal.addEventListener("abort", forget, { once: true });
      void done.then(forget, forget);
    }
    const pull = shared;
    pull.waiters++;
    const signal = options.signal;
    let onAbort = (): void => {};
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () => reject(TinderboxError.from(signal?.reason, "ABORTED"));
      if (signal?.aborted) onAbort();
      else signal?.addEventListener("abort", onAbort, { once: true });
    });
    try {
      return await Promise.race([pull.done, aborted]);
    } finally {
      signal?.removeEventListener("abort", onAbort);
      if (--pull.waiters === 0)
        pull.stop.abort(new TinderboxError("ABORTED", `pull of ${nameOf(reference)} was given up`));
    }
  }

  /** Ends all of them; resolves when they have ended. */
  async close(): Promise<void> {
    // An abort takes the pull off the map.
    const all = [...this.#pulls.values()];
    for (const { stop } of all) stop.abort(new TinderboxError("ABORTED", "the daemon stops"));
    await Promise.allSettled(all.map(({ done }) => done));
  }
}
