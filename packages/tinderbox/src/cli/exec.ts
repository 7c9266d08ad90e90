/** `tinderbox exec`: another process in a running container; its exit status is ours. */
import { type GlobalOptions, withDaemon } from "./cri-clients.ts";
import { findContainer } from "./find.ts";
import { openStream, withRawTerminal } from "./stream-client.ts";

export type ExecOptions = { readonly tty: boolean; readonly interactive: boolean };

export async function exec(
  globals: GlobalOptions,
  container: string,
  command: readonly string[],
  { tty, interactive }: ExecOptions,
): Promise<void> {
  const stop = new AbortController();
  // With a terminal of its own, the process gets Ctrl-C as a key; without one, only we are interrupted.
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(name, () => stop.abort());
  process.exitCode = await withDaemon(globals, async (clients) => {
    const { id } = await findContainer(clients, container);
    const { url } = await clients.runtime.callUnary("exec", {
      containerId: id,
      cmd: [...command],
      tty,
      stdin: interactive,
      stdout: true,
      stderr: !tty,
    });
    return await withRawTerminal(tty && interactive, async () => {
      const stream = await openStream(url, {
        stdin: interactive ? process.stdin : undefined,
        stdout: process.stdout,
        stderr: process.stderr,
        terminal: tty ? process.stdout : undefined,
        signal: stop.signal,
      });
      const code = await stream.ended;
      return stop.signal.aborted ? 130 : (code ?? 0);
    });
  });
}
