/** `tinderbox guest build`. */
import { resolve } from "node:path";
import { guestDirectory, nativeProgram } from "../base/paths.ts";
import { buildGuest } from "../guest/build-guest.ts";
import type { GlobalOptions } from "./cri-clients.ts";
import { printJson } from "./output.ts";

export type GuestBuildOptions = {
  readonly output?: string;
  readonly kernel?: string;
  readonly plain: boolean;
};

export async function guestBuild(globals: GlobalOptions, options: GuestBuildOptions): Promise<void> {
  const stop = new AbortController();
  const onSignal = (): void => stop.abort();
  process.once("SIGINT", onSignal);
  let last = "";
  const guest = await buildGuest({
    outputDir: resolve(options.output ?? guestDirectory),
    ...(options.kernel === undefined ? {} : { kernel: resolve(options.kernel) }),
    nativeProgram,
    plain: options.plain,
    signal: stop.signal,
    onProgress: ({ message }) => {
      if (message !== last) process.stderr.write(`${message}\n`);
      last = message;
    },
  });
  process.off("SIGINT", onSignal);
  if (globals.json) return printJson(guest);
  const files = [
    guest.vmlinux,
    guest.initramfs,
    ...(guest.plainInitramfs === undefined ? [] : [guest.plainInitramfs]),
  ];
  process.stdout.write(
    `kernel ${guest.kernelRelease}, ${guest.crunVersion}${guest.reused ? " (nothing to do)" : ""}\n`,
  );
  for (const file of files) process.stdout.write(`${file}\n`);
}
