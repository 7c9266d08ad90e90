/**
 * Reads the daemon's TOML file into a DaemonConfig. Strict: an unknown key, a wrong type or a file that is not there is
 * a CONFIG error with file, key, value and what is allowed. Keys left out keep their default; a `runtimes` table
 * replaces the default runtimes as a whole.
 */
import { readFileSync, statSync } from "node:fs";
import { parse, TomlError } from "smol-toml";
import * as v from "valibot";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import type { DaemonConfig, RuntimeConfig } from "./config.ts";
import { defaultConfig, defaultConfigPath } from "./default-config.ts";

/** A unix socket address holds 108 bytes with its NUL. */
const maxSocketPathBytes = 107;

const absolute = v.pipe(
  v.string("an absolute path"),
  v.regex(/^\/(?!$)[^\0]*$/, "an absolute path other than /"),
  v.check((path) => !path.split("/").includes(".."), "a path without `..`"),
);
/** One of `words`, or an absolute path. */
const wordOrPath = (words: readonly string[], allowed: string) =>
  v.pipe(
    v.string(allowed),
    v.check((text) => words.includes(text) || v.is(absolute, text), allowed),
  );
const fileOrEmpty = wordOrPath([""], 'an absolute path, or ""');
const nameText = "a name of lower-case letters, digits, dots and hyphens, as RuntimeClass has them";
const runtimeName = v.pipe(v.string(nameText), v.regex(/^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/, nameText));
const count = (min: number, max: number) => {
  const allowed = `a whole number from ${min} to ${max}`;
  return v.pipe(v.number(allowed), v.integer(allowed), v.minValue(min, allowed), v.maxValue(max, allowed));
};

/** How many letters to change, add or take away to make one word of the other. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, n) => n);
  for (const [n, letter] of [...from].entries()) {
    const next = [n + 1];
    for (const [m, other] of [...to].entries())
      next.push(
        Math.min((row[m] ?? 0) + (letter === other ? 0 : 1), (row[m + 1] ?? 0) + 1, (next[m] ?? 0) + 1),
      );
    row = next;
  }
  return row[to.length] ?? 0;
}

/** The key that was meant, if one is near. */
function suggestion(key: string, known: readonly string[]): string {
  const distance = (word: string): number => editDistance(key.slice(0, 64).toLowerCase(), word);
  const [nearest] = known.toSorted((a, b) => distance(a) - distance(b));
  return nearest !== undefined && distance(nearest) <= 3 ? `did you mean ${nearest}? ` : "";
}

/** A table that says which keys it knows when it meets another one. */
function table<const E extends v.ObjectEntries>(entries: E) {
  const known = Object.keys(entries);
  return v.strictObject(entries, (issue) => {
    if (issue.expected === "never")
      return `unknown key; ${suggestion(String(issue.input), known)}known here: ${known.join(", ")}`;
    return issue.received === "undefined" ? "this key must be there" : "a table";
  });
}

const programText = "a program's name or absolute path";
const vmmText = '"auto", "firecracker", "firecracker-qemu" or an absolute path';
const mirrorText = "an http:// or https:// URL without credentials or a query";

function isMirror(text: string): boolean {
  return /^https?:\/\/[^\s/@?#]+(\/[^\s?#]*)?$/.test(text) && URL.canParse(text);
}

const ociRuntime = table({
  type: v.literal("oci"),
  path: v.pipe(v.string(programText), v.regex(/^(\/[^\0]+|[\w.+-]+)$/, programText)),
});
const microVmRuntime = table({
  type: v.literal("microvm"),
  vmm: v.optional(wordOrPath(["auto", "firecracker", "firecracker-qemu"], vmmText), "auto"),
  kernel: v.optional(fileOrEmpty, ""),
  initrd: v.optional(fileOrEmpty, ""),
  boot_args: v.optional(
    v.pipe(v.string("text"), v.regex(/^[\x20-\x7e]{0,1024}$/, "at most 1024 printable ASCII characters")),
    "",
  ),
  vcpus: v.optional(count(1, 32), 1),
  // Below this the stock kernel and its initramfs do not fit.
  memory_mib: v.optional(count(96, 1 << 20), 256),
});

const fileSchema = table({
  root: v.optional(absolute),
  state: v.optional(absolute),
  listen: v.optional(
    v.pipe(
      absolute,
      v.check(
        (path) => Buffer.byteLength(path) <= maxSocketPathBytes,
        `a path of at most ${maxSocketPathBytes} bytes`,
      ),
    ),
  ),
  default_runtime: v.optional(runtimeName),
  runtimes: v.optional(
    v.record(
      runtimeName,
      v.variant("type", [ociRuntime, microVmRuntime], 'a table with type = "oci" or "microvm"'),
      "a table of runtimes",
    ),
  ),
  cni: v.optional(
    v.pipe(
      v.custom<object>((value) => typeof value === "object" && !Array.isArray(value), "a table"),
      table({
        conf_dir: v.optional(absolute),
        bin_dirs: v.optional(
          v.pipe(v.array(absolute, "a list of paths"), v.minLength(1, "at least one path")),
        ),
      }),
    ),
  ),
  registries: v.optional(
    v.record(
      v.pipe(v.string(), v.regex(/^[a-z0-9.-]+(:\d{1,5})?$/i, "a registry's host, maybe with a port")),
      table({
        mirrors: v.array(v.pipe(v.string(mirrorText), v.check(isMirror, mirrorText)), "a list of URLs"),
      }),
      "a table of registries",
    ),
  ),
});
type FileConfig = v.InferOutput<typeof fileSchema>;

function configError(where: string, why: string, cause?: unknown): TinderboxError {
  return new TinderboxError("CONFIG", `${where}: ${why}`, cause === undefined ? {} : { cause });
}

function shownValue(value: unknown): string {
  // JSON has no nan.
  const text = typeof value === "number" ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 100 ? `${text.slice(0, 100)}...` : text;
}

/** The dotted key of an issue, quoted where TOML would have to. */
function keyOf(path: readonly { readonly key: unknown }[]): string {
  return path
    .map(({ key }) => (/^[\w-]+$/.test(String(key)) ? String(key) : JSON.stringify(String(key))))
    .join(".");
}

function parseText(text: string, file: string): FileConfig {
  let raw: unknown;
  try {
    raw = parse(text);
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw configError(file, TinderboxError.from(cause).message, cause);
    const [what] = cause.message.split("\n");
    throw configError(`${file}:${cause.line}:${cause.column}`, what ?? "not TOML", cause);
  }
  const result = v.safeParse(fileSchema, raw);
  if (result.success) return result.output;
  // A key that is misspelt is missing too: the former helps more.
  const issue = result.issues.find(({ expected }) => expected === "never") ?? result.issues[0];
  const key = keyOf(issue.path ?? []);
  const value =
    issue.received === "undefined" || issue.expected === "never" ? "" : `${shownValue(issue.input)}: `;
  throw configError(`${file}: ${key}`, `${value}${issue.message}`);
}

function runtimeOf(name: string, file: NonNullable<FileConfig["runtimes"]>[string]): RuntimeConfig {
  if (file.type === "oci") return { type: "oci", name, path: file.path };
  const { type, vmm, kernel, initrd, vcpus } = file;
  return { type, name, vmm, kernel, initrd, bootArgs: file.boot_args, vcpus, memoryMib: file.memory_mib };
}

function checkFiles(runtime: RuntimeConfig, file: string): void {
  const paths =
    runtime.type === "oci"
      ? { path: runtime.path }
      : { vmm: runtime.vmm, kernel: runtime.kernel, initrd: runtime.initrd };
  for (const [key, path] of Object.entries(paths)) {
    if (!path.startsWith("/")) continue;
    const info = statSync(path, { throwIfNoEntry: false });
    const isProgram = key === "path" || key === "vmm";
    const why =
      info === undefined
        ? "no such file"
        : !info.isFile()
          ? "not a file"
          : isProgram && (info.mode & 0o111) === 0
            ? "not a program: it is not executable"
            : undefined;
    if (why !== undefined)
      throw configError(
        `${file}: ${keyOf([{ key: "runtimes" }, { key: runtime.name }, { key }])}`,
        `${shownValue(path)}: ${why}`,
      );
  }
}

/** Parses the text of a configuration file; `file` is for the errors. @throws CONFIG */
export function parseConfig(text: string, file: string): DaemonConfig {
  const given = parseText(text, file);
  const runtimes =
    given.runtimes === undefined
      ? defaultConfig.runtimes
      : new Map(Object.entries(given.runtimes).map(([name, runtime]) => [name, runtimeOf(name, runtime)]));
  for (const runtime of runtimes.values()) checkFiles(runtime, file);
  const names = [...runtimes.keys()].join(", ");
  if (runtimes.size === 0) throw configError(`${file}: runtimes`, "at least one runtime must be there");
  const defaultRuntime = given.default_runtime ?? defaultConfig.defaultRuntime;
  if (!runtimes.has(defaultRuntime)) {
    throw configError(
      `${file}: default_runtime`,
      `${shownValue(defaultRuntime)}: one of the runtimes: ${names}`,
    );
  }
  const root = given.root ?? defaultConfig.root;
  const state = given.state ?? defaultConfig.state;
  if (root === state)
    throw configError(`${file}: state`, `${shownValue(state)}: a directory other than root`);
  if (root.startsWith(`${state}/`))
    throw configError(
      `${file}: root`,
      `${shownValue(root)}: a directory outside state, which a reboot empties`,
    );
  return {
    root,
    state,
    listen: given.listen ?? (given.state === undefined ? defaultConfig.listen : `${state}/tinderbox.sock`),
    defaultRuntime,
    runtimes,
    cni: {
      confDir: given.cni?.conf_dir ?? defaultConfig.cni.confDir,
      binDirs: given.cni?.bin_dirs ?? defaultConfig.cni.binDirs,
    },
    registries: new Map(Object.entries(given.registries ?? {})),
  };
}

/** The configuration from `path`, or from the default place if a file is there, or the defaults. @throws CONFIG */
export function loadConfig(path: string | undefined): DaemonConfig {
  const file = path ?? defaultConfigPath;
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    if (path === undefined && errnoOf(cause) === "ENOENT") return defaultConfig;
    throw configError(
      file,
      errnoOf(cause) === "ENOENT" ? "no such file" : TinderboxError.from(cause).message,
      cause,
    );
  }
  return parseConfig(text, file);
}
