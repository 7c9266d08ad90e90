/**
 * The one error type of the node software, and the table that maps its codes to what each door answers.
 * Thrown with the fields a person needs: what was asked, what was found, what is allowed.
 */

/** What a code means at each edge. */
type CodeFacts = { readonly grpc: number; readonly exit: number };

const grpc = {
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const;

/** Every error code, with its gRPC status and the CLI's exit status. */
export const errorTable = {
  INVALID: { grpc: grpc.invalidArgument, exit: 2 },
  CONFIG: { grpc: grpc.invalidArgument, exit: 2 },
  NOT_FOUND: { grpc: grpc.notFound, exit: 1 },
  EXISTS: { grpc: grpc.alreadyExists, exit: 1 },
  WRONG_STATE: { grpc: grpc.failedPrecondition, exit: 1 },
  UNSUPPORTED: { grpc: grpc.unimplemented, exit: 1 },
  LIMIT: { grpc: grpc.resourceExhausted, exit: 1 },
  TIMEOUT: { grpc: grpc.deadlineExceeded, exit: 1 },
  ABORTED: { grpc: grpc.aborted, exit: 130 },
  UNAVAILABLE: { grpc: grpc.unavailable, exit: 1 },
  INTERNAL: { grpc: grpc.internal, exit: 1 },
  TOOL_MISSING: { grpc: grpc.failedPrecondition, exit: 1 },
  TOOL_FAILED: { grpc: grpc.internal, exit: 1 },
  AGENT: { grpc: grpc.internal, exit: 1 },
  RUNTIME: { grpc: grpc.internal, exit: 1 },
  VMM: { grpc: grpc.internal, exit: 1 },
  CNI: { grpc: grpc.internal, exit: 1 },
  IMAGE_REFERENCE: { grpc: grpc.invalidArgument, exit: 2 },
  IMAGE_DIGEST: { grpc: grpc.internal, exit: 1 },
  IMAGE_MALFORMED: { grpc: grpc.internal, exit: 1 },
  IMAGE_PLATFORM: { grpc: grpc.notFound, exit: 1 },
  // With other statuses the kubelet does not look for the words it knows (RegistryUnavailable, SignatureValidationFailed).
  REGISTRY: { grpc: grpc.unknown, exit: 1 },
  SIGNATURE: { grpc: grpc.unknown, exit: 1 },
  REGISTRY_AUTH: { grpc: grpc.unauthenticated, exit: 1 },
  CLEANUP: { grpc: grpc.internal, exit: 1 },
} as const satisfies Record<string, CodeFacts>;

export type ErrorCode = keyof typeof errorTable;

export type ErrorOptions = {
  readonly cause?: unknown;
  /** What the reader can do next, one sentence. */
  readonly hint?: string;
};

/** An error with a code to branch on; messages are for people and may change. */
export class TinderboxError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "TinderboxError";
    this.code = code;
    this.hint = options.hint;
  }

  /** Any thrown value as a TinderboxError; one that is already is returned as it is. */
  static from(thrown: unknown, code: ErrorCode = "INTERNAL"): TinderboxError {
    if (thrown instanceof TinderboxError) return thrown;
    if (thrown instanceof Error) {
      const aborted = thrown.name === "AbortError";
      return new TinderboxError(aborted ? "ABORTED" : code, thrown.message, { cause: thrown });
    }
    return new TinderboxError(code, String(thrown));
  }
}

/** The errno of a failed system call ("ENOENT"), undefined for anything else. */
export function errnoOf(thrown: unknown): string | undefined {
  return thrown instanceof Error && "code" in thrown && typeof thrown.code === "string"
    ? thrown.code
    : undefined;
}
