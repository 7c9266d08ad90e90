/** Pod networks by CNI: a named network namespace, the plugins' interfaces in it, and for a microVM a tap. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { nativeProgram } from "../base/paths.ts";
import { run, tryRun } from "../native/run.ts";
import { AttachmentJournal } from "./attachment-journal.ts";
import { capabilityArgs } from "./capability-args.ts";
import { type CniNetwork, canCheck, canCollectGarbage, hasStatus } from "./cni-config.ts";
import { findPlugin } from "./cni-plugin.ts";
import { dnsOf, ipsOf } from "./cni-result.ts";
import {
  cniAdd,
  cniArgs,
  cniCheck,
  cniCollectGarbage,
  cniDelete,
  cniStatus,
  podInterfaceName,
} from "./cni-runner.ts";
import type { IdMaps, NetworkService, NetworkStatus, PodNetwork, PodNetworkRequest } from "./contract.ts";
import { checkGuestRoutes, guestSysctls } from "./guest-settings.ts";
import { NetworkSource } from "./network-source.ts";
import { PodCidrs } from "./pod-cidrs.ts";
import { joinTap, readInterface, restoreAddresses } from "./pod-interfaces.ts";

export type NetworkServiceOptions = {
  readonly confDir: string;
  readonly binDirs: readonly string[];
  /** The name of the network that pods get; "" = that of the first file. @default "" */
  readonly defaultNetwork?: string;
  /** Survives a reboot: what CNI was asked and answered */
  readonly rootDir: string;
  readonly stateDir: string;
  readonly logger: Logger;
};

/** iproute2's directory of named namespaces, which `ip -n` and people look in. */
const netnsDirectory = "/run/netns";

function mapOptions(maps: IdMaps | undefined): readonly string[] {
  const options = (name: string, lines: IdMaps["uids"] = []): readonly string[] =>
    lines.flatMap(({ inside, outside, length }) => [name, `${inside}:${outside}:${length}`]);
  return [...options("--uid-map", maps?.uids), ...options("--gid-map", maps?.gids)];
}

/** What a pod asks for must be taken by a plugin. @throws INVALID for host ports */
function checkCapabilities(network: CniNetwork, request: PodNetworkRequest, logger: Logger): void {
  const args = capabilityArgs(request);
  const isTaken = (key: string): boolean =>
    network.plugins.some((plugin) => plugin.capabilities[key] === true);
  if (args["portMappings"] !== undefined && !isTaken("portMappings")) {
    throw new TinderboxError(
      "INVALID",
      `port_mappings: host ports are asked for, but no plugin of the CNI network ${network.name} takes portMappings`,
      { hint: "Add portmap to its plugins, as docs/networking.md has it." },
    );
  }
  if (args["bandwidth"] !== undefined && !isTaken("bandwidth"))
    logger.warn("a pod's bandwidth annotations do nothing: no CNI plugin takes bandwidth", {
      sandbox: request.sandboxId,
      network: network.name,
    });
}

class CniNetworkService implements NetworkService {
  readonly #options: NetworkServiceOptions;
  readonly #journal: AttachmentJournal;
  readonly #source: NetworkSource;
  readonly #podCidrs: PodCidrs;
  readonly #turns = new Map<string, Promise<unknown>>();
  /** Being set up, maybe not in the journal yet */
  readonly #starting = new Set<string>();
  /** Their DEL has failed: plugins may let go of them */
  readonly #failed = new Set<string>();
  #collecting: Promise<void> | undefined;
  #asking: Promise<NetworkStatus> | undefined;

  constructor(
    options: NetworkServiceOptions,
    journal: AttachmentJournal,
    source: NetworkSource,
    podCidrs: PodCidrs,
  ) {
    this.#options = options;
    this.#journal = journal;
    this.#source = source;
    this.#podCidrs = podCidrs;
  }

  status(): Promise<NetworkStatus> {
    // A slow plugin is asked once, whoever waits.
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #ask(): Promise<NetworkStatus> {
    const { binDirs } = this.#options;
    const { network, fault = "" } = await this.#source.read();
    if (!network) return { isReady: false, message: fault };
    try {
      for (const { type } of network.plugins) await findPlugin(binDirs, type);
      if (hasStatus(network)) await cniStatus(network, binDirs);
      return { isReady: true, message: fault };
    } catch (cause) {
      return { isReady: false, message: TinderboxError.from(cause, "CNI").message };
    }
  }

  setPodCidrs(podCidrs: readonly string[]): Promise<void> {
    return this.#podCidrs.set(podCidrs);
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

  setUp(given: PodNetworkRequest, signal: AbortSignal): Promise<PodNetwork> {
    const request = { ...given, podCidrs: this.#podCidrs.value };
    const { sandboxId } = request;
    return this.#inTurn(sandboxId, async () => {
      signal.throwIfAborted();
      // Before anything is written: DEL could not be told either.
      cniArgs(request);
      const { network, fault = "" } = await this.#source.read();
      if (!network) throw new TinderboxError("CNI", fault);
      checkCapabilities(network, request, this.#options.logger);
      if (await this.#journal.read(sandboxId))
        throw new TinderboxError("EXISTS", `sandbox ${sandboxId} has a network already`);
      while (this.#collecting) await this.#collecting;
      this.#starting.add(sandboxId);
      try {
        return await this.#attach(network, request, signal);
      } catch (cause) {
        await this.#detach(sandboxId).catch((failure) =>
          this.#options.logger.error("undoing a failed network set-up; it is tried again later", {
            sandbox: sandboxId,
            cause: TinderboxError.from(failure).message,
          }),
        );
        throw TinderboxError.from(cause, "CNI");
      } finally {
        this.#starting.delete(sandboxId);
      }
    });
  }

  async #attach(network: CniNetwork, request: PodNetworkRequest, signal: AbortSignal): Promise<PodNetwork> {
    const { withTap } = request;
    const sysctls = withTap ? guestSysctls(network, podInterfaceName) : undefined;
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
    if (withTap) checkGuestRoutes(network, result);
    const joined = withTap ? await joinTap(netns, made, signal) : made;
    const ips = ipsOf(result);
    return {
      netnsPath,
      interfaces: [joined],
      ips: ips.length > 0 ? ips : made.addresses.map((address) => address.replace(/\/.*/, "")),
      dns: dnsOf(result),
      ...(sysctls ? { sysctls } : {}),
    };
  }

  check(sandboxId: string): Promise<void> {
    return this.#inTurn(sandboxId, async () => {
      const entry = await this.#journal.read(sandboxId);
      if (entry?.result === undefined)
        throw new TinderboxError("NOT_FOUND", `sandbox ${sandboxId} has no network`);
      const { netns, network, request, result } = entry;
      if (!canCheck(network)) return;
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
    try {
      await cniDelete({ network, binDirs, netnsPath: isThere ? netnsPath : "", request }, result);
    } catch (cause) {
      // Once: the pod's owner asks again, and each time DEL is tried again.
      if (!this.#failed.has(sandboxId)) {
        this.#failed.add(sandboxId);
        void this.collectGarbage();
      }
      throw cause;
    }
    if (existsSync(netnsPath)) await run("ip", ["netns", "delete", netns]);
    await this.#journal.remove(sandboxId);
    this.#failed.delete(sandboxId);
  }

  known(): Promise<readonly string[]> {
    return this.#journal.ids();
  }

  /** No pod is attached meanwhile: a plugin would take a new one's address for garbage. */
  async collectGarbage(): Promise<void> {
    while (this.#collecting) await this.#collecting;
    this.#collecting = this.#collect()
      .catch((cause) =>
        this.#options.logger.warn("collecting CNI's garbage", { cause: TinderboxError.from(cause).message }),
      )
      .finally(() => {
        this.#collecting = undefined;
      });
    await this.#collecting;
  }

  async #collect(): Promise<void> {
    // Taken before anything is waited for: whoever starts later waits for us.
    const starting = [...this.#starting];
    const { network: inForce } = await this.#source.read();
    const networks = new Map<string, CniNetwork>();
    const attached = new Map<string, Set<string>>();
    for (const id of await this.#journal.ids()) {
      const entry = await this.#journal.read(id);
      if (!entry) continue;
      networks.set(entry.network.name, entry.network);
      const ids = attached.get(entry.network.name) ?? new Set(starting);
      attached.set(entry.network.name, this.#failed.has(id) ? ids : ids.add(id));
    }
    if (inForce) networks.set(inForce.name, inForce);
    for (const network of networks.values()) {
      if (!canCollectGarbage(network)) continue;
      const ids = [...(attached.get(network.name) ?? new Set(starting))];
      const failures = await cniCollectGarbage(network, this.#options.binDirs, ids);
      for (const cause of failures)
        this.#options.logger.warn("a CNI plugin could not collect garbage", { network: network.name, cause });
    }
  }
}

/** Opens the network service of a node; it keeps watching `confDir` for as long as the process lives. */
export async function createNetworkService(options: NetworkServiceOptions): Promise<NetworkService> {
  const { rootDir, defaultNetwork = "" } = options;
  const journal = await AttachmentJournal.open(rootDir);
  const source = await NetworkSource.open({ ...options, defaultNetwork });
  return new CniNetworkService(options, journal, source, await PodCidrs.open(join(rootDir, "pod-cidrs")));
}
