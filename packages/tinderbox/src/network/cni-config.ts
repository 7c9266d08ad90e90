/** CNI network configuration: the first file by name in the configuration directory, parsed strictly. */
import { access, constants, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
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
  readonly plugins: readonly CniPlugin[];
};

const supportedVersions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const maxFileBytes = 1 << 20;

/** Whether a parsed JSON value is an object. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parsePlugin(path: string, raw: unknown): CniPlugin {
  if (!isObject(raw)) throw new TinderboxError("CNI", `${path}: an object is expected`);
  const { type, capabilities } = raw;
  // The type becomes a file name below the plugin directories.
  if (typeof type !== "string" || !/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/.test(type)) {
    throw new TinderboxError("CNI", `${path}.type ${JSON.stringify(type)}: a plugin's file name is expected`);
  }
  return { type, capabilities: isObject(capabilities) ? capabilities : {}, raw };
}

/** Parses the text of a `.conflist` (list of plugins) or `.conf` (one plugin). */
export function parseCniNetwork(path: string, text: string): CniNetwork {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw new TinderboxError("CNI", `${path}: not JSON: ${TinderboxError.from(cause).message}`, { cause });
  }
  if (!isObject(raw)) throw new TinderboxError("CNI", `${path}: an object is expected`);
  const { name, cniVersion } = raw;
  if (typeof name !== "string" || !/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(name)) {
    throw new TinderboxError(
      "CNI",
      `${path}: name ${JSON.stringify(name)}: letters, digits, "_", "." and "-" are allowed`,
    );
  }
  if (typeof cniVersion !== "string" || !supportedVersions.includes(cniVersion)) {
    throw new TinderboxError(
      "CNI",
      `${path}: cniVersion ${JSON.stringify(cniVersion)}: ${supportedVersions.join(", ")} are supported`,
    );
  }
  const isList = "plugins" in raw;
  const entries = isList ? raw["plugins"] : [raw];
  if (!Array.isArray(entries) || entries.length === 0) {
    throw new TinderboxError("CNI", `${path}: plugins: a list of at least one plugin is expected`);
  }
  return {
    cniVersion,
    name,
    disableCheck: isList && raw["disableCheck"] === true,
    plugins: entries.map((entry, n) => parsePlugin(isList ? `${path}: plugins[${n}]` : path, entry)),
  };
}

/** Where the plugin's program is. @throws CNI when no directory has it */
export async function findPlugin(binDirs: readonly string[], type: string): Promise<string> {
  for (const directory of binDirs) {
    const path = join(directory, type);
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      // the next one
    }
  }
  throw new TinderboxError("CNI", `CNI plugin ${type} is not in ${binDirs.join(", ")}`, {
    hint: "Install the CNI plugins (Debian: containernetworking-plugins), or set cni.binDirs.",
  });
}

/** Loads the network in force; every plugin of it is known to exist. @throws CNI with the reason there is none */
export async function loadCniNetwork(confDir: string, binDirs: readonly string[]): Promise<CniNetwork> {
  const names = await readdir(confDir).catch((cause) => {
    throw new TinderboxError("CNI", `${confDir}: ${TinderboxError.from(cause).message}`, { cause });
  });
  const first = names.filter((name) => /\.(conf|conflist|json)$/.test(name)).sort()[0];
  if (first === undefined) {
    throw new TinderboxError("CNI", `no CNI configuration in ${confDir}`, {
      hint: "Put a .conflist file there; docs/networking.md has one.",
    });
  }
  const path = join(confDir, first);
  const bytes = await readFile(path).catch((cause) => {
    throw new TinderboxError("CNI", `${path}: ${TinderboxError.from(cause).message}`, { cause });
  });
  if (bytes.length > maxFileBytes)
    throw new TinderboxError("CNI", `${path}: longer than ${maxFileBytes} bytes`);
  const network = parseCniNetwork(path, bytes.toString("utf8"));
  for (const plugin of network.plugins) await findPlugin(binDirs, plugin.type);
  return network;
}
