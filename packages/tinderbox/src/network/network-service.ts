/** Pod networks by CNI: a named network namespace, the plugins' interfaces in it, and for a microVM a tap. */
import { existsSync, type FSWatcher, watch } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { nativeProgram } from "../base/paths.ts";
import { run, tryRun } from "../native/run.ts";
import { AttachmentJournal } from "./attachment-journal.ts";
import { type CniNetwork, isObject, type JsonObject, loadCniNetwork } from "./cni-config.ts";
import { canCheck, cniAdd, cniArgs, cniCheck, cniDelete, podInterfaceName } from "./cni-runner.ts";
import type { IdMaps, NetworkService, PodNetwork, PodNetworkRequest } from "./contract.ts";
import { joinTap, readInterface, restoreAddresses } from "./pod-interfaces.ts";

export type NetworkServiceOptions = {
  readonly confDir: string;
  readonly binDirs: readonly string[];
  /** Survives a reboot: what CNI was asked and answered */
  readonly rootDir: string;
  readonly stateDir: string;
  readonly logger: Logger;
};

/** iproute2's directory of named namespaces, which `ip -n` and people look in. */
const netnsDirectory = "/run/netns";

const stringsOf = (value: unknown): readonly string[] =>
  Array.isArray(value) ? value.filter((one) => typeof one === "string") : [];

function ipsOf(result: JsonObject): readonly string[] {
  const ips = Array.isArray(result["ips"]) ? result["ips"].filter(isObject) : [];
  return ips.flatMap(({ address }) => (typeof address === "string" ? [address.replace(/\/.*/, "")] : []));
}

function dnsOf(result: JsonObject): PodNetwork["dns"] {
  const dns = isObject(result["dns"]) ? result["dns"] : {};
  return {
    nameservers: stringsOf(dns["nameservers"]),
    search: stringsOf(dns["search"]),
    options: stringsOf(dns["options"]),
  };
}

function mapOptions(maps: IdMaps | undefined): readonly string[] {
  const options = (name: string, lines: IdMaps["uids"] = []): readonly string[] =>
    lines.flatMap(({ inside, outside, length }) => [name, `${inside}:${outside}:${length}`]);
  return [...options("--uid-map", maps?.uids), ...options("--gid-map", maps?.gids)];
}

class CniNetworkService implements NetworkService {
  readonly #options: NetworkServiceOptions;
  readonly #journal: AttachmentJournal;
  readonly #turns = new Map<string, Promise<unknown>>();
  #notReady: string | undefined = "the CNI configuration has not been read yet";
  #watcher: FSWatcher | undefined;

  constructor(options: NetworkServiceOptions, journal: AttachmentJournal) {
    this.#options = options;
    this.#journal = journal;
  }

  async begin(): Promise<void> {
    const { confDir } = this.#options;
    await mkdir(confDir, { recursive: true });
    // Watched first: a file written while the directory is read is then seen once more.
    this.#watcher = watch(confDir, { persistent: false }, () => void this.#load().catch(() => {}));
    this.#watcher.on("error", (cause) => {
      this.#notReady = `${confDir}: ${cause.message}`;
    });
    await this.#load().catch(() => {});
  }

  async #load(): Promise<CniNetwork> {
    try {
      const network = await loadCniNetwork(this.#options.confDir, this.#options.binDirs);
      this.#notReady = undefined;
      return network;
    } catch (cause) {
      const error = TinderboxError.from(cause, "CNI");
      if (this.#notReady !== error.message)
        this.#options.logger.warn("pod network not ready", { cause: error.message });
      this.#notReady = error.message;
      throw error;
    }
  }

  notReady(): string | undefined {
    return this.#notReady;
  }

  /** One thing at a time for a sandbox; others do not wait. */
  #inTurn<T>(sandboxId: string, act: () => Promise<T>): Promise<T> {
    const turn = (this.#turns.get(sandboxId) ?? Promise.resolve()).then(act);
    const settled = turn.then(
      () => {},
      () => {},
    );
    this.#turns.set(sandboxId, settled);
    void settled.then(() => {
      if (this.#turns.get(sandboxId) === settled) this.#turns.delete(sandboxId);
    });
    return turn;
  }

  setUp(request: PodNetworkRequest, signal: AbortSignal): Promise<PodNetwork> {
    return this.#inTurn(request.sandboxId, async () => {
      signal.throwIfAborted();
      // Before anything is written: DEL could not be told either.
      cniArgs(request);
      const network = await this.#load();
      if (await this.#journal.read(request.sandboxId))
        throw new TinderboxError("EXISTS", `sandbox ${request.sandboxId} has a network already`);
      const ports = request.portMappings.some((one) => one.hostPort > 0);
      if (ports && !network.plugins.some((plugin) => plugin.capabilities["portMappings"] === true)) {
        throw new TinderboxError(
          "INVALID",
          `port_mappings: host ports are asked for, but no plugin of the CNI network ${network.name} takes portMappings`,
          { hint: "Add portmap to its plugins, as docs/networking.md has it." },
        );
      }
      try {
        return await this.#attach(network, request, signal);
      } catch (cause) {
        await this.#detach(request.sandboxId).catch((failure) =>
          this.#options.logger.error("undoing a failed network set-up; it is tried again later", {
            sandbox: request.sandboxId,
            cause: TinderboxError.from(failure).message,
          }),
        );
        throw TinderboxError.from(cause, "CNI");
      }
    });
  }

  async #attach(network: CniNetwork, request: PodNetworkRequest, signal: AbortSignal): Promise<PodNetwork> {
    const netns = `tb-${request.sandboxId}`;
    const netnsPath = join(netnsDirectory, netns);
    const entry = { version: 1, netns, request, network, interfaces: [] } as const;
    await this.#journal.write(entry);
    await run(nativeProgram, ["netns-add", netns, ...mapOptions(request.userNamespace)], { signal });
    const { binDirs } = this.#options;
    const result = await cniAdd({ network, binDirs, netnsPath, request }, signal);
    const made = await readInterface(netns, podInterfaceName);
    // Before the addresses are taken from the interface: DEL needs them there.
    await this.#journal.write({ ...entry, result, interfaces: [made] });
    const joined = request.withTap ? await joinTap(netns, made, signal) : made;
    const ips = ipsOf(result);
    return {
      netnsPath,
      interfaces: [joined],
      ips: ips.length > 0 ? ips : made.addresses.map((address) => address.replace(/\/.*/, "")),
      dns: dnsOf(result),
    };
  }

  check(sandboxId: string): Promise<void> {
    return this.#inTurn(sandboxId, async () => {
      const entry = await this.#journal.read(sandboxId);
      if (entry?.result === undefined)
        throw new TinderboxError("NOT_FOUND", `sandbox ${sandboxId} has no network`);
      const { netns, network, request, result } = entry;
      if (request.withTap || !canCheck(network)) return;
      const { binDirs } = this.#options;
      await cniCheck({ network, binDirs, netnsPath: join(netnsDirectory, netns), request }, result);
    });
  }

  tearDown(sandboxId: string): Promise<void> {
    return this.#inTurn(sandboxId, () => this.#detach(sandboxId));
  }

  async #detach(sandboxId: string): Promise<void> {
    const entry = await this.#journal.read(sandboxId);
    if (!entry) return;
    const { netns, network, request, result, interfaces } = entry;
    const netnsPath = join(netnsDirectory, netns);
    // Opening an unmounted name (after a reboot, or a cut "ip netns add") fails: then the namespace is as good as gone.
    const isThere =
      existsSync(netnsPath) && (await tryRun("ip", ["-n", netns, "link", "show", "dev", "lo"])).code === 0;
    // A tap took them; a container with NET_ADMIN may have, too.
    if (isThere) for (const iface of interfaces) await restoreAddresses(netns, iface);
    const { binDirs } = this.#options;
    await cniDelete({ network, binDirs, netnsPath: isThere ? netnsPath : "", request }, result);
    if (existsSync(netnsPath)) await run("ip", ["netns", "delete", netns]);
    await this.#journal.remove(sandboxId);
  }

  known(): Promise<readonly string[]> {
    return this.#journal.ids();
  }
}

/** Opens the network service of a node; it keeps watching `confDir` for as long as the process lives. */
export async function createNetworkService(options: NetworkServiceOptions): Promise<NetworkService> {
  const service = new CniNetworkService(options, await AttachmentJournal.open(options.rootDir));
  await service.begin();
  return service;
}
