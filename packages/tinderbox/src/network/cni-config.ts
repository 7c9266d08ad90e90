/** CNI network configuration, parsed strictly: a list of plugins, or one plugin as an older file has it. */
import { TinderboxError } from "../base/errors.ts";

export type JsonObject = { readonly [key: string]: unknown };

export type CniPlugin = {
  readonly type: string;
  readonly capabilities: JsonObject;
  readonly raw: JsonObject;
};

export type CniNetwork = {
  readonly cniVersion: string;
  readonly name: string;
  /** CHECK must not be called */
  readonly disableCheck: boolean;
  /** GC must not be called: others use this network's plugins, too */
  readonly disableGC: boolean;
  readonly plugins: readonly CniPlugin[];
};

/** What a file says; plugins of other files may belong to it. */
export type ParsedNetwork = CniNetwork & { readonly takesMorePlugins: boolean };

/** From the oldest on */
const supportedVersions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/** Whether a parsed JSON value is an object. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseObject(path: string, text: string): JsonObject {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw new TinderboxError("CNI", `${path}: not JSON: ${TinderboxError.from(cause).message}`, { cause });
  }
  if (!isObject(raw)) throw new TinderboxError("CNI", `${path}: an object is expected`);
  return raw;
}

function pluginOf(path: string, raw: unknown): CniPlugin {
  if (!isObject(raw)) throw new TinderboxError("CNI", `${path}: an object is expected`);
  const { type, capabilities } = raw;
  // The type becomes a file name below the plugin directories.
  if (typeof type !== "string" || !/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/.test(type)) {
    throw new TinderboxError("CNI", `${path}.type ${JSON.stringify(type)}: a plugin's file name is expected`);
  }
  return { type, capabilities: isObject(capabilities) ? capabilities : {}, raw };
}

/** Parses the text of one plugin of a network. */
export function parseCniPlugin(path: string, text: string): CniPlugin {
  return pluginOf(path, parseObject(path, text));
}

/** The newest of the versions a file offers that is known here. */
function versionOf(path: string, { cniVersion, cniVersions }: JsonObject): string {
  if (cniVersions !== undefined && !Array.isArray(cniVersions))
    throw new TinderboxError(
      "CNI",
      `${path}: cniVersions ${JSON.stringify(cniVersions)}: a list is expected`,
    );
  const offered: readonly unknown[] = [cniVersion, ...(cniVersions ?? [])];
  const version = supportedVersions.findLast((known) => offered.includes(known));
  if (version !== undefined) return version;
  throw new TinderboxError(
    "CNI",
    `${path}: cniVersion ${JSON.stringify(cniVersion)}: ${supportedVersions.join(", ")} are supported`,
  );
}

function flagOf(path: string, raw: JsonObject, key: string): boolean {
  const value = raw[key] ?? false;
  // Text is what some tools write.
  if (value === true || value === "true") return true;
  if (value === false || value === "false") return false;
  throw new TinderboxError("CNI", `${path}: ${key} ${JSON.stringify(value)}: true or false is expected`);
}

/** Parses the text of a `.conflist` (list of plugins) or `.conf` (one plugin). */
export function parseCniNetwork(path: string, text: string): ParsedNetwork {
  const raw = parseObject(path, text);
  const { name } = raw;
  if (typeof name !== "string" || !/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(name)) {
    throw new TinderboxError(
      "CNI",
      `${path}: name ${JSON.stringify(name)}: letters, digits, "_", "." and "-" are allowed`,
    );
  }
  const isList = "plugins" in raw || path.endsWith(".conflist");
  const takesMorePlugins = isList && !flagOf(path, raw, "loadOnlyInlinedPlugins");
  const entries = isList ? (raw["plugins"] ?? (takesMorePlugins ? [] : undefined)) : [raw];
  if (!Array.isArray(entries) || ("plugins" in raw && entries.length === 0)) {
    throw new TinderboxError("CNI", `${path}: plugins: a list of at least one plugin is expected`);
  }
  return {
    cniVersion: versionOf(path, raw),
    name,
    disableCheck: isList && flagOf(path, raw, "disableCheck"),
    disableGC: isList && flagOf(path, raw, "disableGC"),
    plugins: entries.map((entry, n) => pluginOf(isList ? `${path}: plugins[${n}]` : path, entry)),
    takesMorePlugins,
  };
}

/** Whether plugins of this network can be asked to check an attachment: CHECK came with 0.4.0, and a list may forbid it. */
export function canCheck(network: CniNetwork): boolean {
  return network.cniVersion !== "0.3.1" && !network.disableCheck;
}

/** Whether plugins of this network can be asked if they are ready. */
export function hasStatus(network: CniNetwork): boolean {
  return network.cniVersion === "1.1.0";
}

/** Whether plugins of this network can be told which attachments there still are. */
export function canCollectGarbage(network: CniNetwork): boolean {
  return network.cniVersion === "1.1.0" && !network.disableGC;
}
