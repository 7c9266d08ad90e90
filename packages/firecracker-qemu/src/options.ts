// The command line, flag for flag as Firecracker has it.

/** A wrong command line: the program ends with Firecracker's status 153. */
export class ArgumentError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "ArgumentError";
  }
}

export type Options = {
  readonly apiSocket: string | undefined;
  readonly id: string;
  readonly configFile: string | undefined;
  readonly metadataFile: string | undefined;
  readonly logPath: string | undefined;
  readonly level: string | undefined;
  readonly showLevel: boolean;
  readonly showLogOrigin: boolean;
  readonly metricsPath: string | undefined;
  readonly maxPayloadBytes: number;
  readonly mmdsLimitBytes: number;
};

export type Command =
  | { readonly kind: "run"; readonly options: Options }
  | { readonly kind: "help" | "version" | "snapshot-version" };

const defaultSocket = "/run/firecracker.socket";
const defaultPayload = 51_200;

// Flag to its value's name; "" takes none.
const flags: Readonly<Record<string, string>> = {
  "--api-sock": "PATH",
  "--id": "ID",
  "--config-file": "FILE",
  "--metadata": "FILE",
  "--no-api": "",
  "--log-path": "FILE",
  "--level": "LEVEL",
  "--module": "NAME",
  "--show-level": "",
  "--show-log-origin": "",
  "--metrics-path": "FILE",
  "--http-api-max-payload-size": "BYTES",
  "--mmds-size-limit": "BYTES",
  "--start-time-us": "US",
  "--start-time-cpu-us": "US",
  "--parent-cpu-time-us": "US",
  "--boot-timer": "",
  "--no-seccomp": "",
  "--help": "",
  "--version": "",
  "--snapshot-version": "",
};
/** Flags of Firecracker that mean something which QEMU's microvm machine cannot do */
const refused: Readonly<Record<string, string>> = {
  "--enable-pci": "QEMU's microvm machine is used without PCI",
  "--seccomp-filter": "QEMU has its own filter, always on",
  "--describe-snapshot": "snapshots are not supported",
};

/** What `--help` prints. */
export const help = `firecracker-qemu: Firecracker's REST API on QEMU's microvm machine, for hosts without usable KVM.

Usage: firecracker-qemu [--api-sock PATH] [--id ID] [--config-file FILE [--no-api]] ...

${Object.entries(flags)
  .map(([flag, value]) => `  ${`${flag} ${value}`.trim()}`)
  .join("\n")}

Environment:
  TINDERBOX_QEMU_ACCEL   kvm or tcg: no try whether the kernel runs under KVM

Example:
  firecracker-qemu --api-sock /tmp/fc.sock &
  curl --unix-socket /tmp/fc.sock -X PUT http://localhost/boot-source -d '{"kernel_image_path": "vmlinux"}'
`;

function bytes(flag: string, value: string | undefined, otherwise: number): number {
  if (value === undefined) return otherwise;
  if (!/^\d{1,9}$/.test(value)) throw new ArgumentError(`${flag} ${value}: it has to be a number of bytes`);
  return Number(value);
}

/** @throws {ArgumentError} */
export function parseOptions(argv: readonly string[]): Command {
  const given = new Map<string, string>();
  for (let at = 0; at < argv.length; at++) {
    const flag = argv[at] ?? "";
    const why = refused[flag];
    if (why !== undefined) throw new ArgumentError(`${flag} is not supported by firecracker-qemu: ${why}`);
    const takes = flags[flag];
    if (takes === undefined) throw new ArgumentError(`Found argument '${flag}' which wasn't expected.`);
    if (given.has(flag)) throw new ArgumentError(`The argument '${flag}' was provided more than once.`);
    if (takes !== "") at++;
    const value = takes === "" ? "" : argv[at];
    if (value === undefined)
      throw new ArgumentError(`The argument '${flag}' requires a value, but none was supplied.`);
    given.set(flag, value);
  }
  if (given.has("--help")) return { kind: "help" };
  if (given.has("--version")) return { kind: "version" };
  if (given.has("--snapshot-version")) return { kind: "snapshot-version" };
  const id = given.get("--id") ?? "anonymous-instance";
  if (!/^[\p{L}\p{N}-]{1,64}$/u.test(id))
    throw new ArgumentError(`--id ${JSON.stringify(id.slice(0, 80))}: 1 to 64 letters, digits and '-'`);
  const withoutApi = given.has("--no-api");
  if (withoutApi && !given.has("--config-file"))
    throw new ArgumentError("The argument '--no-api' requires '--config-file'.");
  if (withoutApi && given.has("--api-sock"))
    throw new ArgumentError("The arguments '--no-api' and '--api-sock' cannot be used together.");
  const maxPayloadBytes = bytes(
    "--http-api-max-payload-size",
    given.get("--http-api-max-payload-size"),
    defaultPayload,
  );
  return {
    kind: "run",
    options: {
      apiSocket: withoutApi ? undefined : (given.get("--api-sock") ?? defaultSocket),
      id,
      configFile: given.get("--config-file"),
      metadataFile: given.get("--metadata"),
      logPath: given.get("--log-path"),
      level: given.get("--level"),
      showLevel: given.has("--show-level"),
      showLogOrigin: given.has("--show-log-origin"),
      metricsPath: given.get("--metrics-path"),
      maxPayloadBytes,
      mmdsLimitBytes: bytes("--mmds-size-limit", given.get("--mmds-size-limit"), maxPayloadBytes),
    },
  };
}
