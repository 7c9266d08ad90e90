/** SIGHUP: what of a new configuration can count at once does, and what cannot is named. */
import type { Logger, LogLevel, LogThreshold } from "../base/log.ts";
import type { ImageSettings } from "../image/image-settings.ts";
import type { DaemonConfig } from "./config.ts";

/** The parts of the running daemon that follow the configuration. */
export type Live = {
  readonly threshold: LogThreshold;
  images: ImageSettings;
};

/** Text to compare by; maps as lists, since JSON knows no maps. */
function shown(value: unknown): string {
  return JSON.stringify(value instanceof Map ? [...value] : value) ?? "";
}

/** Brings `live` to `after`; the log names the keys that need a restart. */
export function applyConfig(
  before: DaemonConfig,
  after: DaemonConfig,
  live: Live,
  defaultLevel: LogLevel,
  logger: Logger,
): void {
  live.threshold.level = after.logLevel ?? defaultLevel;
  live.images = after.images;
  const fixed = [
    "root",
    "state",
    "listen",
    "defaultRuntime",
    "runtimes",
    "cni",
    "cdiSpecDirs",
    "metrics",
  ] as const;
  const waiting = fixed.filter((key) => shown(before[key]) !== shown(after[key]));
  logger.info("configuration read again", {
    logLevel: live.threshold.level,
    registries: [...live.images.registries.keys()].join(" "),
    policy: [...live.images.policy.scopes.keys()].join(" "),
  });
  if (waiting.length > 0)
    logger.warn("these settings count after a restart (pods are not touched by it)", {
      keys: waiting.join(" "),
    });
}
