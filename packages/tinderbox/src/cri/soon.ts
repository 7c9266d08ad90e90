/** Figures for a list: what does not answer soon is left out, so that one pod's trouble is not everybody's. */
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";

const timeoutMs = 2000;

/** What `ask` gives within two seconds, or undefined, which the log tells. */
export async function soon<T>(what: string, logger: Logger, ask: () => Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new TinderboxError("TIMEOUT", `no answer in ${timeoutMs} ms`)),
      timeoutMs,
    );
  });
  try {
    return await Promise.race([ask(), late]);
  } catch (cause) {
    // It may have ended meanwhile; anything else is for the log.
    logger.debug("no figures", { of: what, error: TinderboxError.from(cause).message });
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}
