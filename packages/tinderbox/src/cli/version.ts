/** `tinderbox version`. */
import { tinderboxVersion as client } from "../base/version.ts";
import { type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { printJson } from "./output.ts";

/** The daemon's line says so when none runs: that is no failure of this command. */
export async function version(options: GlobalOptions): Promise<void> {
  const daemon = await withDaemon(options, ({ runtime }) =>
    runtime.callUnary("version", {}, { deadlineMs: 2000 }),
  ).then(
    ({ runtimeName, runtimeVersion, runtimeApiVersion }) => ({
      runtimeName,
      runtimeVersion,
      runtimeApiVersion,
    }),
    () => undefined,
  );
  if (options.json) return printJson({ client, daemon: daemon ?? null, node: process.version });
  const there = daemon
    ? `${daemon.runtimeName} ${daemon.runtimeVersion} (CRI ${daemon.runtimeApiVersion})`
    : `none on ${options.socket}`;
  process.stdout.write(`client  ${client} (Node ${process.version})\ndaemon  ${there}\n`);
}
