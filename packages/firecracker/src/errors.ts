/** The SDK's errors: one class a situation, each with a literal `code` to branch on. Messages are for people. */

export type FirecrackerErrorCode = "FC_API" | "FC_EXITED" | "FC_TIMEOUT" | "FC_VSOCK" | "FC_LAUNCH";

/** What every error of this SDK is. */
export abstract class FirecrackerError extends Error {
  abstract readonly code: FirecrackerErrorCode;
}

/** The VMM answered a request with a failure. */
export class FirecrackerApiError extends FirecrackerError {
  readonly code = "FC_API";
  /** HTTP status; 0 when no whole answer came */
  readonly status: number;
  readonly faultMessage: string;
  readonly method: string;
  readonly path: string;

  constructor(method: string, path: string, status: number, faultMessage: string, cause?: unknown) {
    super(`${method} ${path}: ${status === 0 ? "" : `status ${status}: `}${faultMessage}`, { cause });
    this.name = "FirecrackerApiError";
    this.method = method;
    this.path = path;
    this.status = status;
    this.faultMessage = faultMessage;
  }
}

/** The VMM ended although it was still needed. */
export class FirecrackerExitedError extends FirecrackerError {
  readonly code = "FC_EXITED";
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The last of what it wrote to its captured outputs */
  readonly stderrTail: string;

  constructor(exitCode: number | null, signal: NodeJS.Signals | null, stderrTail: string) {
    const how = signal === null ? `exit status ${exitCode}` : `signal ${signal}`;
    super(`the VMM ended with ${how}${stderrTail === "" ? "" : `: ${stderrTail.trim()}`}`);
    this.name = "FirecrackerExitedError";
    this.exitCode = exitCode;
    this.signal = signal;
    this.stderrTail = stderrTail;
  }
}

/** Something did not happen in the time given. */
export class FirecrackerTimeoutError extends FirecrackerError {
  readonly code = "FC_TIMEOUT";
  constructor(message: string) {
    super(message);
    this.name = "FirecrackerTimeoutError";
  }
}

/** A vsock connection could not be made. */
export class FirecrackerVsockError extends FirecrackerError {
  readonly code = "FC_VSOCK";
  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = "FirecrackerVsockError";
  }
}

/** The VMM could not be started, or a found process is not the one looked for. */
export class FirecrackerLaunchError extends FirecrackerError {
  readonly code = "FC_LAUNCH";
  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = "FirecrackerLaunchError";
  }
}
