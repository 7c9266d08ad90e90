/** Firecracker's jailer for a VMM: the one beside it or on PATH, of the same release. firecracker-qemu confines its QEMU itself. */
import { realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { readVmmVersion } from "@tinderbox/firecracker";
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { binDirectory } from "../base/paths.ts";
import { findProgram } from "../native/find-program.ts";

/**
 * The jailer for `setting` (`auto`, `none` or a path) and that VMM; undefined when it is to run without one.
 * @throws CONFIG when the jailer that was named is of another release
 */
export async function chooseJailer(
  setting: string,
  vmm: string,
  logger: Logger,
  signal: AbortSignal,
): Promise<string | undefined> {
  const program = await realpath(vmm);
  if (setting === "none" || program === (await realpath(join(binDirectory, "firecracker-qemu"))))
    return undefined;
  const jailer =
    setting === "auto"
      ? ((await findProgram(join(dirname(program), "jailer"))) ?? (await findProgram("jailer")))
      : setting;
  if (jailer === undefined) {
    logger.warn("Firecracker runs as root without its jailer, which is neither beside it nor on PATH", {
      vmm,
    });
    return undefined;
  }
  const [its, own] = await Promise.all([readVmmVersion(jailer, signal), readVmmVersion(vmm, signal)]);
  if (its === own) return jailer;
  const why = `${jailer} is of release ${its}, ${vmm} of ${own}`;
  if (setting !== "auto")
    throw new TinderboxError("CONFIG", `jailer: ${why}`, {
      hint: "Install both from one release of Firecracker.",
    });
  logger.warn("Firecracker runs as root without its jailer: releases differ", { reason: why });
  return undefined;
}
