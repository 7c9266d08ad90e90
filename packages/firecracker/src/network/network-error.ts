/** What goes wrong around a microVM's network on the host. */
import { FirecrackerError } from "../errors.ts";

/** A tap cannot be made or removed, or a CNI result cannot be used. */
export class FirecrackerNetworkError extends FirecrackerError {
  /** Which case it is */
  readonly code = "FC_NETWORK";
  /** The option or the part of the CNI result at fault (`mtu`, `ips[0].address`); undefined when the fault is the host's */
  readonly field: string | undefined;

  constructor(field: string | undefined, message: string, cause?: unknown) {
    super(field === undefined ? message : `${field}: ${message}`, cause);
    this.field = field;
  }
}
