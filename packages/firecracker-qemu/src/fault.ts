// The one error a request can end in: a status and the sentence that goes out as `fault_message`.

/** A refusal that the client sees: `{"fault_message": message}` with `status`. */
export class Fault extends Error {
  readonly status: number;
  constructor(message: string, options: { readonly status?: number; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "Fault";
    this.status = options.status ?? 400;
  }
}

/** The text of whatever was thrown. */
export function reason(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

const ERRNO_TEXT: Readonly<Record<string, string>> = {
  ENOENT: "No such file or directory (os error 2)",
  EACCES: "Permission denied (os error 13)",
  EISDIR: "Is a directory (os error 21)",
  ENOTDIR: "Not a directory (os error 20)",
  EROFS: "Read-only file system (os error 30)",
  EADDRINUSE: "Address in use (os error 98)",
};

/** What the system said about a file, in the words a Firecracker client knows. */
export function systemReason(thrown: unknown): string {
  const code = thrown instanceof Error && "code" in thrown ? String(thrown.code) : "";
  return ERRNO_TEXT[code] ?? reason(thrown);
}
