/** What an operator should read at the start: runtimes of the host that containers are known to break out of. */
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { describeEscapes, findKnownEscapes } from "../native/known-escapes.ts";
import type { DaemonConfig } from "./config.ts";

/** Logs a warning for each; a runtime that cannot be asked is another part's concern. */
export async function warnOfEscapes(runtimes: DaemonConfig["runtimes"], logger: Logger): Promise<void> {
  for (const [name, runtime] of runtimes) {
    if (runtime.type !== "oci") continue;
    try {
      const found = describeEscapes(await findKnownEscapes(runtime.path));
      if (found !== "") logger.warn("a runtime to be replaced", { runtime: name, path: runtime.path, found });
    } catch (cause) {
      logger.debug("a runtime's version is not known", {
        runtime: name,
        cause: TinderboxError.from(cause).message,
      });
    }
  }
}
