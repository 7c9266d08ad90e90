/**
 * A pod's volume server: `tinderbox-native fs`, one process for all host directories that the pod's containers share with
 * the host. It is started with the first volume, in the pod's cgroup, and outlives the daemon; what it serves, and for
 * which containers, is written down before it is given, so a restarted daemon knows.
 */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../../base/errors.ts";
import { nativeProgram } from "../../base/paths.ts";
import { isAlive, type ProcessIdentity } from "../../base/process-identity.ts";
import { writeFileAtomic } from "../../base/write-file.ts";
import { run } from "../../native/run.ts";
import type { IdMaps } from "../../network/contract.ts";
import type { VolumeInit } from "../agent-sandbox.ts";
import type { ContainerVolume } from "../contract.ts";
import { makePodCgroup } from "../pod-cgroup.ts";
import { parseProcessIdentity } from "../sandbox-directory.ts";
import { volumeIds } from "./volume-ids.ts";

/** Host port that the guest dials for volumes. */
export const volumePort = 1025;

type ServedVolume = {
  /** As server and guest call it; never used twice in a pod */
  readonly id: string;
  /** What was asked for: containers that ask for the same share it, its locks and its cache */
  readonly key: string;
  readonly isFile: boolean;
  /** Mounts below it are to stay writable, or may come later */
  readonly isNested: boolean;
  readonly server: ProcessIdentity;
  readonly containers: readonly string[];
};

type Journal = {
  readonly server: ProcessIdentity | undefined;
  readonly next: number;
  readonly volumes: readonly ServedVolume[];
};

const empty: Journal = { server: undefined, next: 1, volumes: [] };

const isMapped = ({ uidMappings, gidMappings }: ContainerVolume): boolean =>
  uidMappings.length + gidMappings.length > 0;

const keyOf = (volume: ContainerVolume): string =>
  JSON.stringify([
    volume.hostPath,
    volume.readonly,
    volume.recursiveReadOnly,
    volume.propagation,
    ...(isMapped(volume) ? [volume.uidMappings, volume.gidMappings] : []),
  ]);

const isSame = (a: ProcessIdentity | undefined, b: ProcessIdentity): boolean =>
  a !== undefined && a.pid === b.pid && a.startTime === b.startTime;

/** What the server depends on beside the volumes. */
export type VolumePlace = {
  /** The sandbox's */
  readonly directory: string;
  readonly cgroupPath: string;
  /** The pod's, when it has one of its own */
  readonly userNamespace: IdMaps | undefined;
  /** Lets the VMM reach the server's socket */
  admit(): Promise<void>;
};

/** The volumes of one microVM. */
export class VolumeServer {
  readonly #place: VolumePlace;
  #journal: Journal;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(place: VolumePlace, journal: Journal) {
    this.#place = place;
    this.#journal = journal;
  }

  static async load(place: VolumePlace): Promise<VolumeServer> {
    let journal = empty;
    try {
      // Our own file, written whole or not at all.
      journal = JSON.parse(await readFile(join(place.directory, "volumes.json"), "utf8")) as Journal;
    } catch (cause) {
      if (errnoOf(cause) !== "ENOENT") throw cause;
    }
    return new VolumeServer(place, journal);
  }

  /** Containers that have a volume. */
  get containers(): readonly string[] {
    return [...new Set(this.#journal.volumes.flatMap((volume) => volume.containers))];
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(act);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async #keep(change: Partial<Journal>): Promise<void> {
    const journal = { ...this.#journal, ...change };
    await writeFileAtomic(join(this.#place.directory, "volumes.json"), JSON.stringify(journal));
    this.#journal = journal;
  }

  /** The running server, started when there is none. What a dead one served is lost to the guest for good. */
  async #server(signal: AbortSignal): Promise<ProcessIdentity> {
    const { server } = this.#journal;
    if (server && isAlive(server)) return server;
    const socket = `${join(this.#place.directory, "vsock.sock")}_${volumePort}`;
    await rm(socket, { force: true });
    const cgroups = (await makePodCgroup(this.#place.cgroupPath)).flatMap((path) => ["--cgroup", path]);
    const said = await run(nativeProgram, ["fs", "--socket", socket, ...cgroups], {
      signal,
      timeoutMs: 30_000,
    });
    const started = parseProcessIdentity(said);
    if (!started)
      throw new TinderboxError("AGENT", `the volume server did not say who it is: ${said.trim()}`);
    await this.#place.admit();
    await this.#keep({ server: started });
    return started;
  }

  #idArguments(volume: ContainerVolume): readonly string[] {
    const lines = (option: string, kind: "uids" | "gids", mount: ContainerVolume["uidMappings"]): string[] =>
      volumeIds(this.#place.userNamespace?.[kind][0], mount).flatMap(({ inside, outside, length }) => [
        option,
        `${inside}:${outside}:${length}`,
      ]);
    return [
      ...lines("--uid-map", "uids", volume.uidMappings),
      ...lines("--gid-map", "gids", volume.gidMappings),
    ];
  }

  static #processArguments(server: ProcessIdentity, id: string): string[] {
    return ["--pid", String(server.pid), "--start-time", server.startTime, "--id", id];
  }

  async #add(
    volume: ContainerVolume,
    containerId: string,
    server: ProcessIdentity,
    signal: AbortSignal,
  ): Promise<ServedVolume> {
    const id = `v${this.#journal.next}`;
    const served: ServedVolume = {
      id,
      key: keyOf(volume),
      isFile: false,
      isNested: false,
      server,
      containers: [containerId],
    };
    const others = this.#journal.volumes;
    await this.#keep({ next: this.#journal.next + 1, volumes: [...others, served] });
    const options = [
      ...(volume.recursiveReadOnly ? ["--recursive-readonly"] : volume.readonly ? ["--readonly"] : []),
      ...(volume.propagation === "rslave" ? ["--slave"] : []),
      ...this.#idArguments(volume),
    ];
    try {
      const kind = await run(
        nativeProgram,
        ["fs-add", ...VolumeServer.#processArguments(server, id), "--source", volume.hostPath, ...options],
        { signal, timeoutMs: 30_000 },
      );
      const words = kind.trim().split(" ");
      const known = { ...served, isFile: words.includes("file"), isNested: words.includes("nested") };
      await this.#keep({ volumes: [...others, known] });
      return known;
    } catch (cause) {
      await this.#keep({ volumes: others });
      const { message } = TinderboxError.from(cause);
      throw new TinderboxError("INVALID", `mounts.host_path ${JSON.stringify(volume.hostPath)}: ${message}`, {
        cause,
      });
    }
  }

  /** Serves what is not served yet; how the guest is to mount each. @throws INVALID for what cannot be served */
  acquire(
    containerId: string,
    volumes: readonly ContainerVolume[],
    signal: AbortSignal,
  ): Promise<readonly VolumeInit[]> {
    if (volumes.length === 0) return Promise.resolve([]);
    return this.#inTurn(async () => {
      const server = await this.#server(signal);
      const wanted: VolumeInit[] = [];
      for (const volume of volumes) {
        const has = this.#journal.volumes.find(
          (one) => one.key === keyOf(volume) && isSame(server, one.server),
        );
        if (has) {
          const containers = [...new Set([...has.containers, containerId])];
          await this.#keep({
            volumes: this.#journal.volumes.map((one) => (one === has ? { ...has, containers } : one)),
          });
        }
        const { id, isFile, isNested } = has ?? (await this.#add(volume, containerId, server, signal));
        const mayBeWritable = !volume.recursiveReadOnly && (isNested || volume.propagation === "rslave");
        wanted.push({ name: volume.name, id, file: isFile, readonly: volume.readonly && !mayBeWritable });
      }
      return wanted;
    });
  }

  /** The container is gone; what only it used is served no more. */
  release(containerId: string): Promise<void> {
    return this.#inTurn(async () => {
      for (const volume of this.#journal.volumes.filter((one) => one.containers.includes(containerId))) {
        const containers = volume.containers.filter((id) => id !== containerId);
        if (containers.length === 0 && isAlive(volume.server))
          await run(nativeProgram, [
            "fs-remove",
            ...VolumeServer.#processArguments(volume.server, volume.id),
          ]);
        const others = this.#journal.volumes.filter((one) => one.id !== volume.id);
        await this.#keep({
          volumes: containers.length === 0 ? others : [...others, { ...volume, containers }],
        });
      }
    });
  }
}
