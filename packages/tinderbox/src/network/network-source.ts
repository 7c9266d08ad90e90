/** The network in force: the first file by name in the configuration directory, or the one that was chosen by the network's name. */
import { type FSWatcher, watch } from "node:fs";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { type CniNetwork, parseCniNetwork, parseCniPlugin } from "./cni-config.ts";
import { findPlugin } from "./cni-plugin.ts";

export type NetworkSourceOptions = {
  readonly confDir: string;
  readonly binDirs: readonly string[];
  /** The name of the network that pods get; "" = the first by file name */
  readonly defaultNetwork: string;
  readonly logger: Logger;
};

/** `fault` says what is wrong with the files; a network that was read before stays in force meanwhile. */
export type NetworkInForce = { readonly network: CniNetwork | undefined; readonly fault: string | undefined };

const maxFileBytes = 1 << 20;

async function readText(path: string): Promise<string> {
  const bytes = await readFile(path).catch((cause) => {
    throw new TinderboxError("CNI", `${path}: ${TinderboxError.from(cause).message}`, { cause });
  });
  if (bytes.length > maxFileBytes)
    throw new TinderboxError("CNI", `${path}: longer than ${maxFileBytes} bytes`);
  return bytes.toString("utf8");
}

/** The names of the files of a directory that end so, in their order; none where there is no directory. */
async function filesOf(directory: string, ending: RegExp): Promise<readonly string[]> {
  try {
    return (await readdir(directory)).filter((name) => ending.test(name)).sort();
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return [];
    throw new TinderboxError("CNI", `${directory}: ${TinderboxError.from(cause).message}`, { cause });
  }
}

/** Loads one file, with the plugins that the directory named after its network adds. */
async function loadFile(confDir: string, name: string): Promise<CniNetwork> {
  const path = join(confDir, name);
  const { takesMorePlugins, ...network } = parseCniNetwork(path, await readText(path));
  const directory = join(confDir, network.name);
  const more = takesMorePlugins ? await filesOf(directory, /\.conf$/) : [];
  const plugins = [...network.plugins];
  for (const one of more)
    plugins.push(parseCniPlugin(join(directory, one), await readText(join(directory, one))));
  if (plugins.length === 0) throw new TinderboxError("CNI", `${path}: no plugins, and none in ${directory}`);
  return { ...network, plugins };
}

/** The network of the files as they are; undefined: there is none. @throws CNI with the reason why what is there cannot be used */
async function loadNetwork(options: NetworkSourceOptions): Promise<CniNetwork | undefined> {
  const { confDir, binDirs, defaultNetwork } = options;
  const faults: string[] = [];
  for (const name of await filesOf(confDir, /\.(conf|conflist|json)$/)) {
    try {
      const network = await loadFile(confDir, name);
      if (defaultNetwork !== "" && network.name !== defaultNetwork) continue;
      for (const plugin of network.plugins) await findPlugin(binDirs, plugin.type);
      return network;
    } catch (cause) {
      // A file that cannot be read says nothing of its name.
      if (defaultNetwork === "") throw cause;
      faults.push(TinderboxError.from(cause, "CNI").message);
    }
  }
  if (faults.length > 0)
    throw new TinderboxError(
      "CNI",
      `no network ${defaultNetwork} in ${confDir} that can be used: ${faults.join("; ")}`,
    );
  return undefined;
}

/** Reads whenever it is asked, so that what it says is true; the directory is watched to keep up and to say it in the log. */
export class NetworkSource {
  readonly #options: NetworkSourceOptions;
  readonly #watchers = new Map<string, FSWatcher>();
  #lastGood: CniNetwork | undefined;
  #lastFault: string | undefined;
  #reading: Promise<NetworkInForce>;
  #next: Promise<NetworkInForce> | undefined;

  private constructor(options: NetworkSourceOptions) {
    this.#options = options;
    this.#reading = Promise.resolve({ network: undefined, fault: undefined });
  }

  static async open(options: NetworkSourceOptions): Promise<NetworkSource> {
    await mkdir(options.confDir, { recursive: true });
    const source = new NetworkSource(options);
    // Watched first: a file written while the directory is read is then seen once more.
    source.#watch(options.confDir);
    await source.read();
    return source;
  }

  /** Watches a directory for as long as the process lives, or the directory. */
  #watch(directory: string): void {
    if (this.#watchers.has(directory)) return;
    try {
      const watcher = watch(directory, { persistent: false }, () => void this.read());
      const forget = (): void => {
        watcher.close();
        this.#watchers.delete(directory);
      };
      watcher.on("error", forget);
      this.#watchers.set(directory, watcher);
    } catch {
      // Not there, or no watch to be had: it is read when it is asked for.
    }
  }

  /** The network in force now. Callers that come while it is read share the next reading. */
  read(): Promise<NetworkInForce> {
    this.#next ??= this.#reading.then(() => {
      this.#next = undefined;
      this.#reading = this.#readNow();
      return this.#reading;
    });
    return this.#next;
  }

  async #readNow(): Promise<NetworkInForce> {
    const { confDir, defaultNetwork, logger } = this.#options;
    const before = this.#lastGood;
    let fault: string | undefined;
    try {
      this.#lastGood = await loadNetwork(this.#options);
      if (this.#lastGood === undefined)
        fault = `no CNI configuration in ${confDir}${defaultNetwork === "" ? "" : ` with the name ${defaultNetwork}`}`;
    } catch (cause) {
      fault = TinderboxError.from(cause, "CNI").message;
    }
    const network = this.#lastGood;
    if (network) this.#watch(join(confDir, network.name));
    if (fault !== undefined && network) fault += `; the network ${network.name}, read before, stays in force`;
    if (fault !== undefined && fault !== this.#lastFault)
      logger.warn(network ? "CNI configuration is wrong" : "pod network not ready", { cause: fault });
    if (fault === undefined && network && JSON.stringify(network) !== JSON.stringify(before))
      logger.info("pod network", {
        name: network.name,
        cniVersion: network.cniVersion,
        plugins: network.plugins.map(({ type }) => type).join(" "),
      });
    this.#lastFault = fault;
    return { network, fault };
  }
}
