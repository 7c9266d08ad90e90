/** `tinderbox guest build`. */
import { resolve } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { guestDirectory, nativeProgram } from "../base/paths.ts";
import { buildGuest } from "../guest/build-guest.ts";
import type { GuestProgress } from "../guest/guest-progress.ts";
import { buildRootfsArtefact } from "../guest/rootfs-artefact.ts";
import type { GlobalOptions } from "./cri-clients.ts";
import { printJson } from "./output.ts";

export type GuestBuildOptions = {
  readonly output?: string;
  readonly kernel?: string;
  readonly plain: boolean;
  readonly rootfs?: string;
  readonly rootfsSize?: string;
  readonly init?: string;
  readonly packages?: string;
};

/** MiB, or undefined when it was not given. */
function parseSize(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,7}$/.test(text))
    throw new TinderboxError("INVALID", `--rootfs-size ${text}: it has to be a number of MiB`);
  return Number(text);
}

export async function guestBuild(globals: GlobalOptions, options: GuestBuildOptions): Promise<void> {
  const stop = new AbortController();
  const onSignal = (): void => stop.abort();
  process.once("SIGINT", onSignal);
  let last = "";
  const onProgress = ({ message }: GuestProgress): void => {
    if (message !== last) process.stderr.write(`${message}\n`);
    last = message;
  };
  const sizeMib = parseSize(options.rootfsSize);
  const outputDir = resolve(options.output ?? guestDirectory);
  const guest = await buildGuest({
    outputDir,
    ...(options.kernel === undefined ? {} : { kernel: resolve(options.kernel) }),
    nativeProgram,
    plain: options.plain || options.rootfs !== undefined,
    signal: stop.signal,
    onProgress,
  });
  const root =
    options.rootfs === undefined
      ? undefined
      : await buildRootfsArtefact({
          source: options.rootfs,
          outputDir,
          ...(sizeMib === undefined ? {} : { sizeMib }),
          ...(options.init === undefined ? {} : { init: options.init }),
          ...(options.packages === undefined ? {} : { packages: options.packages.split(",") }),
          signal: stop.signal,
          onProgress,
        });
  process.off("SIGINT", onSignal);
  if (globals.json) return printJson({ ...guest, ...(root && { rootfs: root.rootfs }) });
  const files = [
    guest.vmlinux,
    guest.initramfs,
    ...(guest.plainInitramfs === undefined ? [] : [guest.plainInitramfs]),
    ...(root === undefined ? [] : [root.rootfs]),
  ];
  process.stdout.write(
    `kernel ${guest.kernelRelease}, ${guest.crunVersion}${guest.reused && root?.reused !== false ? " (nothing to do)" : ""}\n`,
  );
  for (const file of files) process.stdout.write(`${file}\n`);
}
