// The one error a request can end in: a status and the sentence that goes out as `fault_message`.
import { getSystemErrorMap } from "node:util";

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

const texts: Readonly<Record<string, string>> = {
  ENOENT: "No such file or directory",
  EACCES: "Permission denied",
  EPERM: "Operation not permitted",
  EISDIR: "Is a directory",
  ENOTDIR: "Not a directory",
  EROFS: "Read-only file system",
  EADDRINUSE: "Address in use",
  EBUSY: "Device or resource busy",
  EINVAL: "Invalid argument",
  ENXIO: "No such device or address",
  ESPIPE: "Illegal seek",
  ELOOP: "Too many levels of symbolic links",
  ENAMETOOLONG: "File name too long",
  ETXTBSY: "Text file busy",
};

/** The system's own words for the error number `errno`. */
export function errnoText(errno: number): string {
  const [name = "", otherwise = ""] = getSystemErrorMap().get(-errno) ?? [];
  return `${texts[name] ?? otherwise} (os error ${errno})`;
}

/** What the system said about a file, in the words a Firecracker client knows. */
export function systemReason(thrown: unknown): string {
  const errno = thrown instanceof Error && "errno" in thrown ? thrown.errno : undefined;
  if (typeof errno === "number") return errnoText(Math.abs(errno));
  // Node itself refuses a path with a NUL before the system sees it.
  const code = thrown instanceof Error && "code" in thrown ? thrown.code : undefined;
  return code === "ERR_INVALID_ARG_VALUE" ? "Invalid argument (os error 22)" : reason(thrown);
}
