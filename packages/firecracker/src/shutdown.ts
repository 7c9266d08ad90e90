/** The way down: the guest's own end, SIGTERM, SIGKILL. Each step is taken once, and only forward. */
import { FirecrackerTimeoutError } from "./errors.ts";
import { signalVmm } from "./process-identity.ts";
import { endsWithin, type VmmProcess } from "./vmm-process.ts";

/** How long each step of a shutdown may take, and how the guest is asked. */
export type ShutdownOptions = {
  /** Asks the guest to end; a guest that cannot be asked is not waited for. On x86 a guest ends its VMM only by a reboot. @default SendCtrlAltDel */
  readonly askGuest?: (signal: AbortSignal) => Promise<void>;
  /** ms for asking, and for the guest's own end after it; 0 = it is not asked. @default 5_000 */
  readonly guestMs?: number;
  /** ms after SIGTERM; 0 = none is sent. @default 1_000 */
  readonly terminateMs?: number;
  /** Ends the caller's waiting; the shutdown itself goes on. */
  readonly signal?: AbortSignal;
};

/** ms that the kernel gets to end a process after SIGKILL: a disk that does not answer can keep it. */
const killMs = 10_000;

/** SIGKILL and the end. @throws {FirecrackerTimeoutError} FC_TIMEOUT */
export async function killProcess(process: VmmProcess): Promise<void> {
  signalVmm(process.identity, "SIGKILL");
  if (!(await endsWithin(process, killMs)))
    throw new FirecrackerTimeoutError(`process ${process.identity.pid} lives ${killMs} ms after SIGKILL`);
}

/** All steps. @throws {FirecrackerTimeoutError} FC_TIMEOUT */
export async function endProcess(
  process: VmmProcess,
  ask: ((signal: AbortSignal) => Promise<void>) | undefined,
  options: ShutdownOptions,
): Promise<void> {
  const { guestMs = 5_000, terminateMs = 1_000 } = options;
  if (ask !== undefined && guestMs > 0) {
    const limit = new AbortController();
    const timer = setTimeout(
      () => limit.abort(new FirecrackerTimeoutError("the guest was asked in vain")),
      guestMs,
    );
    const forget = process.onExit(() => limit.abort());
    const started = performance.now();
    const isAsked = await new Promise<boolean>((resolve) => {
      limit.signal.addEventListener("abort", () => resolve(false), { once: true });
      // A hook that throws before its first await is a guest that cannot be asked, too.
      (async () => ask(limit.signal))().then(
        () => resolve(true),
        () => resolve(false),
      );
    });
    clearTimeout(timer);
    forget();
    const left = guestMs - (performance.now() - started);
    if (isAsked && (await endsWithin(process, Math.max(0, left)))) return;
  }
  if (await endsWithin(process, 0)) return;
  if (terminateMs > 0) {
    signalVmm(process.identity, "SIGTERM");
    if (await endsWithin(process, terminateMs)) return;
  }
  await killProcess(process);
}
