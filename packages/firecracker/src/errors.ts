/** The SDK's errors: one class a case, each with a literal `code` to branch on. Messages are for people. */

/** The `code` of every error of this SDK. */
export type FirecrackerErrorCode =
  | "FC_API"
  | "FC_ARGUMENT"
  | "FC_EXITED"
  | "FC_JAILER"
  | "FC_LAUNCH"
  | "FC_NETWORK"
  | "FC_STATE"
  | "FC_TIMEOUT"
  | "FC_VERSION"
  | "FC_VSOCK";

/** What every error of this SDK is. */
export abstract class FirecrackerError extends Error {
  /** Which case it is */
  abstract readonly code: FirecrackerErrorCode;
  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = new.target.name;
  }
}

/** The VMM answered a request with a failure, or its answer could not be read. */
export class FirecrackerApiError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_API";
  /** HTTP status; 0 when no whole answer came */
  readonly status: number;
  /** The VMM's own words */
  readonly faultMessage: string;
  /** HTTP method */
  readonly method: string;
  /** Path of the request, with its id */
  readonly path: string;
  /** The body's field that the VMM names, if it names one */
  readonly field: string | undefined;

  constructor(method: string, path: string, status: number, faultMessage: string, cause?: unknown) {
    super(`${method} ${path}: ${status === 0 ? "" : `status ${status}: `}${faultMessage}`, cause);
    this.method = method;
    this.path = path;
    this.status = status;
    this.faultMessage = faultMessage;
    this.field = /(?:unknown|missing|duplicate) field `([^`]+)`/.exec(faultMessage)?.[1];
  }
}

/** An option or field has a value that cannot work; nothing was sent. */
export class FirecrackerArgumentError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_ARGUMENT";
  /** Which option or field */
  readonly field: string;
  constructor(field: string, message: string) {
    super(`${field}: ${message}`);
    this.field = field;
  }
}

/** This VMM's version does not know the operation, field or value; nothing was sent. */
export class FirecrackerVersionError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_VERSION";
  /** The operation, `PUT /path`, or its field, `PUT /path: a.b` */
  readonly feature: string;
  /** Versions that have it: the first of each release line, oldest first; empty when none has */
  readonly since: readonly string[];
  /** The VMM's version */
  readonly version: string;
  constructor(feature: string, since: readonly string[], version: string) {
    const needs = since.length === 0 ? "no known version has it" : `needs ${since.join(" or ")}`;
    super(`${feature} ${needs}; this VMM is ${version}`);
    this.feature = feature;
    this.since = since;
    this.version = version;
  }
}

/** The call is not for the state the machine is in; nothing was sent. */
export class FirecrackerStateError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_STATE";
}

const exitMeanings: Readonly<Record<number, string>> = {
  1: "an error it has told",
  2: "an unexpected error",
  148: "a system call that its seccomp filter forbids",
  149: "SIGBUS",
  150: "SIGSEGV",
  151: "SIGXFSZ: a file grew over its limit",
  152: "a bad configuration",
  153: "bad command line arguments",
  154: "SIGXCPU: its CPU time is used up",
  155: "SIGPIPE",
  156: "SIGHUP",
  157: "SIGILL",
};

/** What Firecracker means by an exit status; undefined for 0 and unknown ones. */
export function explainExitCode(exitCode: number): string | undefined {
  return exitMeanings[exitCode];
}

/** The VMM ended although it was still needed. */
export class FirecrackerExitedError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_EXITED";
  /** null when a signal ended it, or nobody can know (it was not our child) */
  readonly exitCode: number | null;
  /** null when it ended by itself, or nobody can know */
  readonly signal: NodeJS.Signals | null;
  /** The last of what it wrote to its captured outputs */
  readonly stderrTail: string;

  constructor(exitCode: number | null, signal: NodeJS.Signals | null, stderrTail: string, cause?: unknown) {
    const meaning = exitCode === null ? undefined : explainExitCode(exitCode);
    const how =
      signal !== null
        ? `with signal ${signal}`
        : exitCode !== null
          ? `with exit status ${exitCode}${meaning === undefined ? "" : ` (${meaning})`}`
          : "(how is not known, it is not our child)";
    super(`the VMM ended ${how}${stderrTail === "" ? "" : `: ${stderrTail.trim()}`}`, cause);
    this.exitCode = exitCode;
    this.signal = signal;
    this.stderrTail = stderrTail;
  }
}

/** Something did not happen in the time given. */
export class FirecrackerTimeoutError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_TIMEOUT";
}

/** A vsock connection or listener could not be made. */
export class FirecrackerVsockError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_VSOCK";
}

/** The VMM could not be started, or a found process is not the one looked for. */
export class FirecrackerLaunchError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_LAUNCH";
}
