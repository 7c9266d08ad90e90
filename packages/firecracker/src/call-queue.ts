/** Calls of one client, strictly one after the other: the server handles one at a time anyway, and their order matters. */
import { FirecrackerTimeoutError } from "./errors.ts";

/** When a call is given up. */
export type CallLimits = {
  readonly signal: AbortSignal | undefined;
  /** ms from the call on, its wait behind other calls included; 0 = no limit */
  readonly timeoutMs: number;
};

export class CallQueue {
  #tail: Promise<unknown> = Promise.resolve();

  /** Does `work` after all earlier work. Given up, it is told by its signal, and not waited for. */
  run<T>(
    label: string,
    { signal, timeoutMs }: CallLimits,
    work: (stop: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const stop = new AbortController();
      const settle = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
      };
      const giveUp = (reason: unknown): void => {
        settle();
        reject(reason);
        stop.abort(reason);
      };
      const onAbort = (): void => giveUp(signal?.reason);
      const timer =
        timeoutMs === 0
          ? undefined
          : setTimeout(
              () => giveUp(new FirecrackerTimeoutError(`${label}: no answer in ${timeoutMs} ms`)),
              timeoutMs,
            );
      signal?.addEventListener("abort", onAbort, { once: true });
      const turn = this.#tail.then(() => {
        stop.signal.throwIfAborted();
        return work(stop.signal);
      });
      this.#tail = turn.catch(() => {});
      turn.then(resolve, reject).finally(settle);
    });
  }
}
