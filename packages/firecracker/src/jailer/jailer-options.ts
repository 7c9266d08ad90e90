/** The jailer's options and what it refuses of them, told by field before anything is made or started. */
import { FirecrackerJailerError } from "./jailer-error.ts";

/** One cgroup file and what is written to it, `cpu.max=50000 100000`; exactly one `=`. */
export type CgroupSetting = `${string}.${string}=${string}`;

/** How a microVM is jailed. Paths are the host's; relative ones count from the working directory. */
export type JailerOptions = {
  /** The `jailer` program; must be of the same release as `execFile` */
  readonly jailerBinary: string;
  /** The VMM; the jailer copies it into the jail, so it must be statically linked */
  readonly execFile: string;
  /** 1..64 letters, digits, `-`; names the jail's directory and cgroup, so unique for each `execFile` name */
  readonly id: string;
  /** What the VMM runs as, 0..4294967294; one of its own for each microVM keeps them from each other's files */
  readonly uid: number;
  /** As `uid` */
  readonly gid: number;
  /** An existing directory; the jail is `<chrootBaseDir>/<name of execFile>/<id>/root`. @default "/srv/jailer" */
  readonly chrootBaseDir?: string;
  /** File of the network namespace to join, `/run/netns/NAME`. @default the caller's namespace */
  readonly netns?: string;
  /** Own session, standard streams on /dev/null: for a VMM that outlives the caller. @default false */
  readonly daemonize?: boolean;
  /** The VMM becomes PID 1 of a new pid namespace; it is then no child of the caller's: no exit status, no serial input. @default false */
  readonly newPidNs?: boolean;
  /** Written in this order. @default none: the VMM stays in the caller's cgroup */
  readonly cgroups?: readonly CgroupSetting[];
  /** @default 2 where the host's cgroup v2 has every controller that `cgroups` names, else 1 */
  readonly cgroupVersion?: 1 | 2;
  /** Relative path below the cgroup mount; the jail's own cgroup is `<parentCgroup>/<id>`. @default name of execFile */
  readonly parentCgroup?: string;
  /** Of the VMM's process */
  readonly resourceLimits?: {
    /** Largest file that the VMM may write, bytes. @default the caller's limit */
    readonly fsizeBytes?: number;
    /** Open files plus one. @default 2048 */
    readonly noFile?: number;
  };
  /** For the VMM, after `--`. `--id` and the start-time flags are the jailer's own. */
  readonly firecrackerArgs?: readonly string[];
};

const largestUid = 0xffff_fffe;

function refuse(field: string, value: unknown, allowed: string): never {
  throw new FirecrackerJailerError(field, `${JSON.stringify(value)} is not allowed; ${allowed}`);
}

/** The jailer's parser takes a value that starts with two dashes for a flag, and `-h` anywhere for a cry for help. */
function checkText(field: string, value: string): void {
  if (typeof value !== "string" || value === "") refuse(field, value, "it must be a text that is not empty");
  if (value.includes("\0")) refuse(field, value, "it must not hold a NUL");
  if (value.startsWith("--") || value === "-h")
    refuse(field, value, "the jailer takes a value like this for a flag");
}

function checkNumber(field: string, value: number, largest: number): void {
  if (!Number.isSafeInteger(value) || value < 0 || value > largest)
    refuse(field, value, `a whole number, 0..${largest}`);
}

/** Fits both versions: a relative path without `.`, `..` and empty parts. */
const isPlainRelativePath = (path: string): boolean =>
  path.split("/").every((part) => part !== "" && part !== "." && part !== "..");

/** The controller of a cgroup file: what stands before its first dot. */
export const controllerOf = (setting: CgroupSetting): string => setting.slice(0, setting.indexOf("."));

function checkCgroup(field: string, setting: string): void {
  checkText(field, setting);
  const [file = "", value, ...more] = setting.split("=");
  if (value === undefined || value === "" || more.length > 0)
    refuse(field, setting, "it must be FILE=VALUE with exactly one `=` and a value");
  if (!isPlainRelativePath(file)) refuse(field, setting, "the file must be a name in the cgroup's directory");
  if (!/^[a-z0-9_]+\../.test(file)) refuse(field, setting, "the file must be named CONTROLLER.PROPERTY");
}

const ownFlags = new Set(["--id", "--start-time-us", "--start-time-cpu-us", "--parent-cpu-time-us"]);

/**
 * Refuses what the jailer, or the VMM started by it, would refuse; looks at nothing but the options.
 * @throws {FirecrackerJailerError} FC_JAILER naming the first field at fault
 */
export function checkJailerOptions(options: JailerOptions): void {
  checkText("jailerBinary", options.jailerBinary);
  checkText("execFile", options.execFile);
  checkText("id", options.id);
  if (!/^[\p{Alphabetic}\p{N}-]+$/u.test(options.id) || Buffer.byteLength(options.id) > 64)
    refuse("id", options.id, "1..64 bytes of letters, digits and `-`");
  checkNumber("uid", options.uid, largestUid);
  checkNumber("gid", options.gid, largestUid);
  if (options.chrootBaseDir !== undefined) checkText("chrootBaseDir", options.chrootBaseDir);
  if (options.netns !== undefined) checkText("netns", options.netns);
  for (const [index, setting] of (options.cgroups ?? []).entries()) checkCgroup(`cgroups[${index}]`, setting);
  const { cgroupVersion, parentCgroup, resourceLimits } = options;
  if (cgroupVersion !== undefined && cgroupVersion !== 1 && cgroupVersion !== 2)
    refuse("cgroupVersion", cgroupVersion, "1 or 2");
  if (parentCgroup !== undefined) {
    checkText("parentCgroup", parentCgroup);
    if (!isPlainRelativePath(parentCgroup))
      refuse("parentCgroup", parentCgroup, "a relative path without `.` and `..`");
  }
  if (resourceLimits?.fsizeBytes !== undefined)
    checkNumber("resourceLimits.fsizeBytes", resourceLimits.fsizeBytes, Number.MAX_SAFE_INTEGER);
  if (resourceLimits?.noFile !== undefined)
    checkNumber("resourceLimits.noFile", resourceLimits.noFile, Number.MAX_SAFE_INTEGER);
  for (const [index, argument] of (options.firecrackerArgs ?? []).entries()) {
    const field = `firecrackerArgs[${index}]`;
    if (typeof argument !== "string" || argument.includes("\0"))
      refuse(field, argument, "a text without a NUL");
    if (ownFlags.has(argument)) refuse(field, argument, "the jailer passes this flag itself");
  }
}
