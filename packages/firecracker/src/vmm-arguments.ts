/** The VMM's own command line options, typed. What an option does is in Firecracker's `--help`. */
import { FirecrackerArgumentError } from "./errors.ts";

/** Options of the VMM's command line, `--id` and `--api-sock` aside. */
export type VmmFlags = {
  /** PCI instead of MMIO for devices; needed for hot-plug. @default false; since 1.13 */
  readonly enablePci?: boolean;
  /** Logs the guest's boot time when it writes to a magic address. @default false */
  readonly bootTimer?: boolean;
  /** Switches the system call filter off. Never in production. @default false */
  readonly noSeccomp?: boolean;
  /** A compiled filter of one's own, host path; exclusive with `noSeccomp` */
  readonly seccompFilter?: string;
  /** bytes of a request's body. @default 51_200 */
  readonly httpApiMaxPayloadBytes?: number;
  /** bytes of the metadata store. @default httpApiMaxPayloadBytes */
  readonly mmdsSizeLimitBytes?: number;
  /** Log file or FIFO from the very start, host path */
  readonly logPath?: string;
  /** @default "Info" */
  readonly logLevel?: "Error" | "Warning" | "Info" | "Debug" | "Trace" | "Off";
  /** @default false */
  readonly showLevel?: boolean;
  /** Whether lines tell file and line number. @default false */
  readonly showLogOrigin?: boolean;
  /** Logs only this module path */
  readonly logModule?: string;
  /** Metrics file or FIFO, host path; then no PUT /metrics */
  readonly metricsPath?: string;
};

const instanceIdPattern = /^[0-9A-Za-z-]{1,64}$/;

/** Checks an instance's id: the VMM would panic. @throws {FirecrackerArgumentError} FC_ARGUMENT */
export function checkInstanceId(id: string): void {
  if (!instanceIdPattern.test(id))
    throw new FirecrackerArgumentError("id", `${JSON.stringify(id)} is not 1..64 letters, digits and "-"`);
}

/** The options as arguments; paths as they are given. @throws {FirecrackerArgumentError} FC_ARGUMENT */
export function vmmArguments(flags: VmmFlags): string[] {
  if (flags.noSeccomp && flags.seccompFilter !== undefined)
    throw new FirecrackerArgumentError("seccompFilter", "exclusive with noSeccomp");
  const args: string[] = [];
  const flag = (name: string, value: boolean | undefined): void => void (value && args.push(name));
  const option = (name: string, value: string | number | undefined): void =>
    void (value !== undefined && args.push(name, String(value)));
  flag("--enable-pci", flags.enablePci);
  flag("--boot-timer", flags.bootTimer);
  flag("--no-seccomp", flags.noSeccomp);
  option("--seccomp-filter", flags.seccompFilter);
  option("--http-api-max-payload-size", flags.httpApiMaxPayloadBytes);
  option("--mmds-size-limit", flags.mmdsSizeLimitBytes);
  option("--log-path", flags.logPath);
  option("--level", flags.logLevel);
  flag("--show-level", flags.showLevel);
  flag("--show-log-origin", flags.showLogOrigin);
  option("--module", flags.logModule);
  option("--metrics-path", flags.metricsPath);
  return args;
}
