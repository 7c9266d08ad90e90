// The command line, flag for flag as Firecracker has it.

/** A wrong command line: the program ends with Firecracker's status 153. */
export class ArgumentError extends Error {
  constructor(message: string) {
    super(`Arguments parsing error: ${message} For more information try --help.`);
    this.name = "ArgumentError";
  }
}

/** A value that Firecracker does not refuse but trips over: it aborts, by SIGABRT. */
export class AbortingError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "AbortingError";
  }
}

export type Options = {
  /** undefined: without API */
  readonly apiSocket: string | undefined;
  readonly id: string;
  readonly configFile: string | undefined;
  readonly metadataFile: string | undefined;
  readonly logPath: string | undefined;
  readonly level: string | undefined;
  readonly module: string | undefined;
  readonly showLevel: boolean;
  readonly showLogOrigin: boolean;
  readonly metricsPath: string | undefined;
  readonly seccompFilter: string | undefined;
  readonly hasBootTimer: boolean;
  readonly maxPayloadBytes: number;
  readonly mmdsLimitBytes: number;
};

export type Command =
  | { readonly kind: "run"; readonly options: Options }
  | { readonly kind: "describe-snapshot"; readonly path: string }
  | { readonly kind: "help" | "version" | "snapshot-version" };

type Flag = {
  readonly takesValue: boolean;
  readonly help: string;
  readonly default?: string;
  readonly requires?: string;
  readonly forbids?: string;
};

/** In alphabetical order, which is the order of `--help` and of what is checked first. */
const flags: Readonly<Record<string, Flag>> = {
  "api-sock": { takesValue: true, help: "Unix socket of the API", default: "/run/firecracker.socket" },
  "boot-timer": { takesValue: false, help: "Accepted; QEMU has no boot timer device" },
  "config-file": { takesValue: true, help: "The whole machine in one JSON file; it starts at once" },
  "describe-snapshot": { takesValue: true, help: "Print the format version of a snapshot's state file" },
  "enable-pci": { takesValue: false, help: "Refused: the microvm machine is used without PCI" },
  help: { takesValue: false, help: "Print this" },
  "http-api-max-payload-size": { takesValue: true, help: "Bytes of a request's body", default: "51200" },
  id: { takesValue: true, help: "Name of the microVM, as GET / tells it", default: "anonymous-instance" },
  level: { takesValue: true, help: "Error, Warning, Info, Debug, Trace or Off" },
  "log-path": { takesValue: true, help: "File or FIFO of the log, instead of standard output" },
  metadata: { takesValue: true, help: "JSON file with the first contents of the MMDS" },
  "metrics-path": { takesValue: true, help: "File or FIFO of the metrics" },
  "mmds-size-limit": { takesValue: true, help: "Bytes of the MMDS; as many as a body, if not given" },
  module: { takesValue: true, help: "Log only what this module says" },
  "no-api": { takesValue: false, help: "Without API socket", requires: "config-file" },
  "no-seccomp": { takesValue: false, help: "Accepted; QEMU keeps its own filter", forbids: "seccomp-filter" },
  "parent-cpu-time-us": { takesValue: true, help: "Microseconds of processor time of the starter" },
  "seccomp-filter": { takesValue: true, help: "Refused: QEMU has its own filter", forbids: "no-seccomp" },
  "show-level": { takesValue: false, help: "Log lines show their level" },
  "show-log-origin": { takesValue: false, help: "Log lines show where they come from" },
  "snapshot-version": { takesValue: false, help: "Print the format version of snapshots" },
  "start-time-cpu-us": { takesValue: true, help: "Processor time at the start, in microseconds" },
  "start-time-us": { takesValue: true, help: "Time of the start, in microseconds" },
  version: { takesValue: false, help: "Print the version" },
};

function usage(): string {
  const rows = Object.entries(flags).map(([name, flag]) => ({
    left: `  --${name}${flag.takesValue ? ` <${name}>` : ""}`,
    right: flag.default === undefined ? flag.help : `${flag.help} [default: "${flag.default}"]`,
  }));
  const width = Math.max(...rows.map(({ left }) => left.length));
  return rows.map(({ left, right }) => `${left.padEnd(width)}   ${right}`).join("\n");
}

/** What `--help` prints below the version. */
export const help = `optional arguments:
${usage()}

Environment:
  TINDERBOX_QEMU_ACCEL   kvm or tcg: no try whether the kernel runs under KVM

Example:
  firecracker-qemu --api-sock /tmp/fc.sock &
  curl --unix-socket /tmp/fc.sock -X PUT http://localhost/boot-source -d '{"kernel_image_path": "vmlinux"}'
`;

/** @throws {ArgumentError} */
function readFlags(args: readonly string[]): ReadonlyMap<string, string> {
  const given = new Map<string, string>();
  for (let at = 0; at < args.length; at++) {
    const arg = args[at] ?? "";
    const name = arg.startsWith("--") ? arg.slice(2) : "";
    const flag = Object.hasOwn(flags, name) ? flags[name] : undefined;
    if (flag === undefined)
      throw new ArgumentError(`Found argument '${name || arg}' which wasn't expected, or isn't valid here.`);
    if (given.has(name)) throw new ArgumentError(`The argument '${name}' was provided more than once.`);
    if (!flag.takesValue) given.set(name, "");
    else {
      at += 1;
      const value = args[at];
      if (value === undefined || value.startsWith("--"))
        throw new ArgumentError(`The argument '${name}' requires a value, but none was supplied.`);
      given.set(name, value);
    }
  }
  for (const [name, { requires, forbids }] of Object.entries(flags)) {
    if (!given.has(name)) continue;
    if (requires !== undefined && !given.has(requires))
      throw new ArgumentError(`Argument '${requires}' is required by '${name}', but was not found.`);
    if (forbids !== undefined && given.has(forbids))
      throw new ArgumentError(`Argument '${forbids}' cannot be used together with argument '${name}'.`);
  }
  return given;
}

function unsigned(name: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (!/^\+?\d+$/.test(value) || BigInt(value) >= 1n << 64n)
    throw new AbortingError(`'${name}' has to be a number of 64 bits, not ${JSON.stringify(value)}.`);
  return Number(value);
}

/** @throws {ArgumentError} for what is no command line @throws {AbortingError} for a value that makes no sense */
export function parseOptions(argv: readonly string[]): Command {
  const end = argv.indexOf("--");
  const args = end < 0 ? argv : argv.slice(0, end);
  if (args.includes("--help") || args.includes("-h")) return { kind: "help" };
  if (args.includes("--version")) return { kind: "version" };
  const given = readFlags(args);
  if (given.has("enable-pci"))
    throw new ArgumentError(
      "'enable-pci' is not supported by firecracker-qemu: QEMU's microvm machine is used without PCI.",
    );
  if (given.has("snapshot-version")) return { kind: "snapshot-version" };
  const snapshot = given.get("describe-snapshot");
  if (snapshot !== undefined) return { kind: "describe-snapshot", path: snapshot };
  const value = (name: string): string | undefined => given.get(name) ?? flags[name]?.default;
  const id = value("id") ?? "";
  if (!/^[\p{Alphabetic}\p{N}-]+$/u.test(id) || Buffer.byteLength(id) > 64)
    throw new AbortingError(
      `Invalid instance ID ${JSON.stringify(id.slice(0, 80))}: 1 to 64 letters, digits and '-'.`,
    );
  const hasApi = !given.has("no-api");
  if (hasApi)
    for (const name of ["start-time-us", "start-time-cpu-us", "parent-cpu-time-us"])
      unsigned(name, given.get(name));
  const maxPayloadBytes = unsigned("http-api-max-payload-size", value("http-api-max-payload-size")) ?? 0;
  return {
    kind: "run",
    options: {
      apiSocket: hasApi ? value("api-sock") : undefined,
      id,
      configFile: given.get("config-file"),
      metadataFile: given.get("metadata"),
      logPath: given.get("log-path"),
      level: given.get("level"),
      module: given.get("module"),
      showLevel: given.has("show-level"),
      showLogOrigin: given.has("show-log-origin"),
      metricsPath: given.get("metrics-path"),
      seccompFilter: given.get("seccomp-filter"),
      hasBootTimer: given.has("boot-timer"),
      maxPayloadBytes,
      mmdsLimitBytes: unsigned("mmds-size-limit", given.get("mmds-size-limit")) ?? maxPayloadBytes,
    },
  };
}
