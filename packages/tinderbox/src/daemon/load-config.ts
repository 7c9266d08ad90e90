/**
 * Reads the daemon's TOML file, and the drop-ins beside it, into a DaemonConfig. An unknown key, a wrong type or a file that
 * is not there is a CONFIG error with file, key, value and what is allowed. Keys left out keep their default; a `runtimes`
 * table replaces the default runtimes as a whole. A drop-in (FILE.d/NAME.toml, in the order of their names) replaces the keys
 * that it has; of `runtimes`, `registries`, `images.aliases` and `images.policy` it replaces or adds single ones.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { parse, TomlError } from "smol-toml";
import * as v from "valibot";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import type { ImageSettings } from "../image/image-settings.ts";
import { loadPublicKey, type PolicyRule } from "../image/signature-policy.ts";
import type { DaemonConfig, RuntimeConfig } from "./config.ts";
import { type FileConfig, fileSchema } from "./config-schema.ts";
import { defaultConfig, defaultConfigPath } from "./default-config.ts";
import type { FileRule } from "./images-schema.ts";

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
  if (result.success) {
    for (const [name, runtime] of Object.entries(result.output.runtimes ?? {}))
      checkFiles(runtimeOf(name, runtime), file);
    return result.output;
  }
  // A key that is misspelt is missing too: the former helps more.
  const issue = result.issues.find(({ expected }) => expected === "never") ?? result.issues[0];
  const key = keyOf(issue.path ?? []);
  const value =
    issue.received === "undefined" || issue.expected === "never" ? "" : `${shownValue(issue.input)}: `;
  throw configError(`${file}: ${key}`, `${value}${issue.message}`);
}

function runtimeOf(name: string, file: NonNullable<FileConfig["runtimes"]>[string]): RuntimeConfig {
  if (file.type === "oci") return { type: "oci", name, path: file.path };
  const { type, vmm, jailer, kernel, initrd, vcpus } = file;
  const { boot_args: bootArgs, memory_mib: memoryMib } = file;
  return { type, name, vmm, jailer, kernel, initrd, bootArgs, vcpus, memoryMib };
}

function checkFiles(runtime: RuntimeConfig, file: string): void {
  const paths =
    runtime.type === "oci"
      ? { path: runtime.path }
      : { vmm: runtime.vmm, jailer: runtime.jailer, kernel: runtime.kernel, initrd: runtime.initrd };
  for (const [key, path] of Object.entries(paths)) {
    if (!path.startsWith("/")) continue;
    const info = statSync(path, { throwIfNoEntry: false });
    const isProgram = key === "path" || key === "vmm" || key === "jailer";
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

/** `base` with the keys of `above` in place of its own. */
function overlay(base: FileConfig, above: FileConfig): FileConfig {
  const both = { ...base, ...above };
  if (base.runtimes && above.runtimes) both.runtimes = { ...base.runtimes, ...above.runtimes };
  if (base.registries && above.registries) both.registries = { ...base.registries, ...above.registries };
  if (base.images && above.images) {
    both.images = { ...base.images, ...above.images };
    for (const key of ["aliases", "policy"] as const)
      if (base.images[key] && above.images[key])
        Object.assign(both.images, { [key]: { ...base.images[key], ...above.images[key] } });
  }
  if (base.cni && above.cni) both.cni = { ...base.cni, ...above.cni };
  return both;
}

function policyRule(scope: string, rule: FileRule, file: string): PolicyRule {
  if (rule.type !== "sigstoreSigned") return { type: rule.type };
  const keys = rule.keys.map((path, n) => {
    try {
      return loadPublicKey(path);
    } catch (cause) {
      const key = keyOf(["images", "policy", scope, "keys", n].map((one) => ({ key: one })));
      throw configError(
        `${file}: ${key}`,
        `${shownValue(path)}: ${TinderboxError.from(cause).message}`,
        cause,
      );
    }
  });
  return { type: rule.type, keys, signedIdentity: rule.signed_identity };
}

function imageSettings({ images = {}, registries = {} }: FileConfig, file: string): ImageSettings {
  const { shortNames, auth, policy, pinned, stallMs } = defaultConfig.images;
  const seconds = images.progress_timeout_seconds;
  return {
    registries: new Map(Object.entries(registries).map(([host, settings]) => [host.toLowerCase(), settings])),
    shortNames: {
      searchRegistries: images.unqualified_search_registries ?? shortNames.searchRegistries,
      aliases: new Map(Object.entries(images.aliases ?? {})),
      mode: images.short_name_mode ?? shortNames.mode,
    },
    auth: {
      files: images.auth_files ?? auth.files,
      helpersDir: images.credential_helpers_dir ?? auth.helpersDir,
    },
    policy: {
      default: images.default_policy === undefined ? policy.default : { type: images.default_policy },
      scopes: new Map(
        Object.entries(images.policy ?? {}).map(([scope, rule]) => [scope, policyRule(scope, rule, file)]),
      ),
    },
    pinned: images.pinned ?? pinned,
    stallMs: seconds === undefined ? stallMs : seconds * 1000,
  };
}

function build(given: FileConfig, file: string): DaemonConfig {
  const runtimes =
    given.runtimes === undefined
      ? defaultConfig.runtimes
      : new Map(Object.entries(given.runtimes).map(([name, runtime]) => [name, runtimeOf(name, runtime)]));
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
    logLevel: given.log_level,
    defaultRuntime,
    runtimes,
    enableCriuSupport: given.enable_criu_support ?? defaultConfig.enableCriuSupport,
    cni: {
      confDir: given.cni?.conf_dir ?? defaultConfig.cni.confDir,
      binDirs: given.cni?.bin_dirs ?? defaultConfig.cni.binDirs,
      defaultNetwork: given.cni?.default_network ?? defaultConfig.cni.defaultNetwork,
    },
    cdiSpecDirs: given.cdi_spec_dirs ?? defaultConfig.cdiSpecDirs,
    metrics: { listen: given.metrics?.listen ?? defaultConfig.metrics.listen },
    images: imageSettings(given, file),
  };
}

/** Parses the text of a configuration file; `file` is for the errors. @throws CONFIG */
export function parseConfig(text: string, file: string): DaemonConfig {
  return build(parseText(text, file), file);
}

/** The drop-ins' paths, in order. */
function dropIns(file: string): readonly string[] {
  const directory = `${file}.d`;
  try {
    return readdirSync(directory)
      .filter((name) => name.endsWith(".toml") && !name.startsWith("."))
      .sort()
      .map((name) => join(directory, name));
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return [];
    throw configError(directory, TinderboxError.from(cause).message, cause);
  }
}

function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    const why = errnoOf(cause) === "ENOENT" ? "no such file" : TinderboxError.from(cause).message;
    throw configError(file, why, cause);
  }
}

/** The configuration from `path`, or from the default place if a file is there, or the defaults; with drop-ins. @throws CONFIG */
export function loadConfig(path: string | undefined): DaemonConfig {
  const file = path ?? defaultConfigPath;
  const isThere = path !== undefined || existsSync(file);
  const files = [...(isThere ? [file] : []), ...dropIns(file)];
  if (files.length === 0) return defaultConfig;
  return build(files.map((one) => parseText(readText(one), one)).reduce(overlay), file);
}
