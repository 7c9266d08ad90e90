/** Whether containers of an OCI runtime can be checkpointed on this host: asked of the runtime and of CRIU themselves. */
import { type ErrorCode, TinderboxError } from "../base/errors.ts";
import { type RunResult, tryRun } from "./run.ts";

export type CriuSupport =
  | { readonly isSupported: true; readonly criuVersion: string }
  | { readonly isSupported: false; readonly code: ErrorCode; readonly reason: string };

const no = (code: ErrorCode, reason: string): CriuSupport => ({ isSupported: false, code, reason });

/** Why the runtime itself cannot. */
function runtimeLacks(runtime: string, { code, stdout }: RunResult): string | undefined {
  const version = code === 0 ? /^(runc|crun) version \S+/.exec(stdout) : null;
  if (version === null) return `${runtime} is neither runc nor crun by its --version`;
  if (version[1] === "runc" || /\+CRIU\b/.test(stdout)) return undefined;
  return `${version[0].replace(" version", "")} is built without CRIU: its --version says no +CRIU`;
}

/** Looks anew each time, which costs some tens of milliseconds: what is installed may change. */
export async function criuSupport(runtime: string): Promise<CriuSupport> {
  try {
    const lacks = runtimeLacks(runtime, await tryRun(runtime, ["--version"], { timeoutMs: 10_000 }));
    if (lacks !== undefined) return no("UNSUPPORTED", lacks);
    const { stdout } = await tryRun("criu", ["--version"], { timeoutMs: 10_000 });
    const criuVersion = /^Version: (\S+)/m.exec(stdout)?.[1] ?? "of an unknown version";
    const checked = await tryRun("criu", ["check"], { timeoutMs: 20_000 });
    if (checked.code === 0) return { isSupported: true, criuVersion };
    const said = `${checked.stderr}\n${checked.stdout}`.split("\n").find((line) => line.startsWith("Error"));
    return no(
      "UNSUPPORTED",
      `criu ${criuVersion} does not work on this kernel: \`criu check\` says ${said ?? `exit status ${checked.code}`}`,
    );
  } catch (cause) {
    const { code, message } = TinderboxError.from(cause);
    return no(code, message);
  }
}
