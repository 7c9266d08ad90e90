/**
 * One CDI file, JSON or YAML, parsed strictly: an unknown field, or one that is newer than the version which the file names, is an
 * error. Fields that we do not obey are read, and refused when a container asks for a device that has them.
 */
import * as v from "valibot";
import { parse, type ScalarTag } from "yaml";
import { TinderboxError } from "../base/errors.ts";
import { type CdiDeviceNode, type ContainerEdits, hookNames } from "./contract.ts";
import { isDeviceName, isKind } from "./device-name.ts";

/** Edits, and the names of those that we do not make */
export type FileEdits = Omit<ContainerEdits, "names"> & { readonly notMade: readonly string[] };

export type CdiFile = {
  readonly kind: string;
  /** Made once for a container that has any of the devices */
  readonly edits: FileEdits;
  readonly devices: ReadonlyMap<string, FileEdits>;
};

/** Releases of the specification, the oldest first */
const versions = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"] as const;
type Version = (typeof versions)[number];

const text = v.pipe(v.string("text"), v.regex(/^[^\0]*$/, "text without NUL"));
const absolute = v.pipe(
  text,
  v.check((path) => path.startsWith("/") && !path.split("/").includes(".."), "an absolute path without `..`"),
);
const environment = v.array(v.pipe(text, v.regex(/^[^=]+=/, "NAME=value")), "a list of NAME=value");
const whole = (max: number) => {
  const allowed = `a whole number from 0 to ${max}`;
  return v.pipe(v.number(allowed), v.integer(allowed), v.minValue(0, allowed), v.maxValue(max, allowed));
};
const id = whole(0xffff_ffff);
const annotations = v.record(text, text, "a table of text");

const deviceNode = v.strictObject({
  path: absolute,
  hostPath: v.optional(absolute),
  type: v.optional(v.picklist(["", "b", "c", "u", "p"], "b, c, u or p")),
  major: v.optional(whole(0xffff_ffff)),
  minor: v.optional(whole(0xffff_ffff)),
  fileMode: v.optional(whole(0o7777)),
  permissions: v.optional(v.pipe(text, v.regex(/^[rwm]{0,3}$/, "some of r, w and m"))),
  uid: v.optional(id),
  gid: v.optional(id),
});
const mount = v.strictObject({
  hostPath: v.pipe(text, v.minLength(1, "not empty")),
  containerPath: absolute,
  type: v.optional(text),
  options: v.optional(v.array(text)),
});
const hook = v.strictObject({
  hookName: v.picklist(hookNames, hookNames.join(", ")),
  path: absolute,
  args: v.optional(v.array(text)),
  env: v.optional(environment),
  timeout: v.optional(v.pipe(whole(0x7fff_ffff), v.minValue(1, "at least 1"))),
});
const containerEdits = v.strictObject({
  env: v.optional(environment),
  deviceNodes: v.optional(v.array(deviceNode)),
  mounts: v.optional(v.array(mount)),
  hooks: v.optional(v.array(hook)),
  additionalGids: v.optional(v.array(id)),
  netDevices: v.optional(v.array(v.unknown())),
  intelRdt: v.optional(v.record(v.string(), v.unknown())),
});
const fileSchema = v.strictObject({
  cdiVersion: v.picklist(versions, `one of ${versions.join(", ")}`),
  kind: v.pipe(text, v.check(isKind, "vendor.com/class")),
  annotations: v.optional(annotations),
  devices: v.pipe(
    v.array(
      v.strictObject({
        name: v.pipe(text, v.check(isDeviceName, "letters and digits, `_`, `-`, `.` and `:` between them")),
        annotations: v.optional(annotations),
        containerEdits: v.optional(containerEdits),
      }),
    ),
    v.minLength(1, "at least one device"),
  ),
  containerEdits: v.optional(containerEdits),
});
type RawEdits = v.InferOutput<typeof containerEdits>;
type RawFile = v.InferOutput<typeof fileSchema>;

/** A YAML number that begins with 0 is octal, as in the files that Go programs write and read. */
const octal: ScalarTag = {
  tag: "tag:yaml.org,2002:int",
  test: /^0[0-7]+$/,
  resolve: (digits) => Number.parseInt(digits, 8),
  default: true,
  identify: () => false,
};

function* newerFields(file: RawFile): Generator<readonly [Version, string]> {
  if (file.annotations !== undefined) yield ["0.6.0", "annotations"];
  if (file.kind.slice(file.kind.indexOf("/")).includes(".")) yield ["0.6.0", "a dot in the class of kind"];
  for (const device of file.devices) {
    if (device.annotations !== undefined) yield ["0.6.0", "devices.annotations"];
    if (/^\d/.test(device.name)) yield ["0.5.0", "a device name that begins with a digit"];
  }
  for (const edits of [file.containerEdits, ...file.devices.map((device) => device.containerEdits)]) {
    if (edits?.mounts?.some(({ type }) => type !== undefined)) yield ["0.4.0", "mounts.type"];
    if (edits?.deviceNodes?.some(({ hostPath }) => hostPath !== undefined))
      yield ["0.5.0", "deviceNodes.hostPath"];
    if (edits?.intelRdt !== undefined) yield ["0.7.0", "intelRdt"];
    if (edits?.additionalGids !== undefined) yield ["0.7.0", "additionalGids"];
    if (edits?.netDevices !== undefined) yield ["1.1.0", "netDevices"];
  }
}

function nodeOf({ type, permissions, ...node }: NonNullable<RawEdits["deviceNodes"]>[number]): CdiDeviceNode {
  return {
    path: node.path,
    hostPath: node.hostPath ?? node.path,
    type: type === "u" ? "c" : type === "" ? undefined : type,
    major: node.major,
    minor: node.minor,
    fileMode: node.fileMode,
    permissions: permissions || "rwm",
    uid: node.uid,
    gid: node.gid,
  };
}

function editsOf(raw: RawEdits = {}): FileEdits {
  const { mounts = [], hooks = [] } = raw;
  return {
    env: raw.env ?? [],
    deviceNodes: (raw.deviceNodes ?? []).map(nodeOf),
    mounts: mounts.map(({ hostPath, containerPath, type = "", options = [] }) => ({
      hostPath,
      containerPath,
      type,
      options,
    })),
    hooks: hooks.map(({ hookName, path, args = [], env = [], timeout }) => ({
      hookName,
      path,
      args,
      env,
      timeout,
    })),
    // 0 is ignored, the specification says.
    additionalGids: (raw.additionalGids ?? []).filter((gid) => gid !== 0),
    notMade: (["netDevices", "intelRdt"] as const).filter((name) => raw[name] !== undefined),
  };
}

const invalid = (why: string, cause?: unknown): TinderboxError =>
  new TinderboxError("INVALID", why, cause === undefined ? {} : { cause });

/** Parses a file's content. @throws INVALID saying what is wrong with it */
export function parseCdiFile(content: string, format: "json" | "yaml"): CdiFile {
  let raw: unknown;
  try {
    raw =
      format === "json" ? JSON.parse(content) : parse(content, { customTags: (tags) => [octal, ...tags] });
  } catch (cause) {
    const [first = ""] = TinderboxError.from(cause).message.split("\n");
    throw invalid(`not ${format.toUpperCase()}: ${first}`, cause);
  }
  const result = v.safeParse(fileSchema, raw);
  if (!result.success) {
    const [issue] = result.issues;
    const at = v.getDotPath(issue) ?? "the file";
    const isMissing = issue.type === "strict_object" && issue.received === "undefined";
    const why = issue.expected === "never" ? "unknown field" : isMissing ? "it must be there" : issue.message;
    throw invalid(`${at}: ${why}`);
  }
  const file = result.output;
  for (const [version, field] of newerFields(file))
    if (versions.indexOf(version) > versions.indexOf(file.cdiVersion))
      throw invalid(`${field}: needs cdiVersion ${version}, this is ${file.cdiVersion}`);
  const devices = new Map(file.devices.map((device) => [device.name, editsOf(device.containerEdits)]));
  if (devices.size < file.devices.length) throw invalid("devices: two have the same name");
  return { kind: file.kind, edits: editsOf(file.containerEdits), devices };
}
