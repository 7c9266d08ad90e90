/** What goes wrong around a jail: an option the jailer would refuse, a file that cannot be brought in, a jail that cannot be removed. */
import { FirecrackerError } from "../errors.ts";

/** A jail cannot be made as asked, or cannot be removed. */
export class FirecrackerJailerError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_JAILER";
  /** The option at fault as a path (`cgroups[0]`, `uid`); undefined when the fault is the host's */
  readonly field: string | undefined;

  constructor(field: string | undefined, message: string, cause?: unknown) {
    super(field === undefined ? message : `${field}: ${message}`, cause);
    this.field = field;
  }
}
