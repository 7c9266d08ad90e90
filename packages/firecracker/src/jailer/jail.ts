/** One jail that exists: files are brought into it, and its removal undoes all of it. */
import type { Stats } from "node:fs";
import { chmod, chown, lchown, lstat, rm, stat } from "node:fs/promises";
import { basename, posix } from "node:path";
import { inspectPath } from "./inspect-path.ts";
import { hostPathInJail, type JailRecord, type StagedFile, writeJailRecord } from "./jail-record.ts";
import { FirecrackerJailerError } from "./jailer-error.ts";
import { removeJail } from "./remove-jail.ts";
import { nameIn, openJailDirectory, stageFile } from "./stage-file.ts";
import { planStaging, type StagedFileFacts, type StagingAccess, type StagingMethod } from "./staging-plan.ts";

/** Keeps what has to be undone, before it is done; a rejection stops what was about to happen. */
export type KeepRecord = (record: JailRecord) => Promise<void>;

/** How a file comes into a jail. */
export type StageOptions = {
  /** What the VMM does with it */
  readonly access: StagingAccess;
  /** Absolute path in the jail. @default `/files/<name of the file>`, numbered when that is taken */
  readonly as?: string;
  /** @default chosen: link, bind mount or copy for what is read; link or bind mount for what is written; a node for a block device */
  readonly method?: StagingMethod;
  /** Ends the staging; nothing of it is left then */
  readonly signal?: AbortSignal;
};

const isStageable = (facts: Stats): boolean =>
  facts.isFile() || facts.isBlockDevice() || facts.isSocket() || facts.isFIFO();

/** A jail that exists. Its VMM may not yet run, run, or have ended. */
export class Jail implements AsyncDisposable {
  #record: JailRecord;
  readonly #keepRecord: KeepRecord;
  /** One staging after the other: names are chosen by what is there. */
  #turn: Promise<unknown> = Promise.resolve();

  /** Goes on with a jail from its record; `jailedSpawner` makes a new one at the launch. */
  constructor(record: JailRecord, keepRecord: KeepRecord = writeJailRecord) {
    this.#record = record;
    this.#keepRecord = keepRecord;
  }

  /** What {@link removeJail} needs; changes while files are staged */
  get record(): JailRecord {
    return this.#record;
  }

  /** The host's name of an absolute path in the jail. @throws {FirecrackerJailerError} FC_JAILER when it is not one */
  hostPath(jailPath: string): string {
    return hostPathInJail(this.#record, this.#checkJailPath("jailPath", jailPath));
  }

  #checkJailPath(field: string, path: string): string {
    if (!path.startsWith("/") || path.includes("\0") || posix.normalize(path) !== path || path.endsWith("/"))
      throw new FirecrackerJailerError(
        field,
        `${JSON.stringify(path)} is not a plain absolute path in the jail`,
      );
    return path;
  }

  /**
   * Brings a file, block device, FIFO or unix socket of the host in; its path in the jail, which is what an API body must
   * say. A file brought in already with the same access keeps its path unless `as` differs.
   * @throws {FirecrackerJailerError} FC_JAILER naming `hostPath` or `as`
   */
  async stage(hostPath: string, options: StageOptions): Promise<string> {
    const turn = this.#turn.then(() => this.#stage(hostPath, options));
    this.#turn = turn.catch(() => {});
    return await turn;
  }

  async #stage(hostPath: string, { access, as, method, signal }: StageOptions): Promise<string> {
    signal?.throwIfAborted();
    if (as !== undefined) this.#checkJailPath("as", as);
    const source = await inspectPath(
      "hostPath",
      hostPath,
      isStageable,
      "a file, block device, FIFO or unix socket",
    );
    const stats = await stat(source);
    const inode = `${stats.dev}:${stats.ino}`;
    // A copy is what the file was then, and a name may by now be another file's.
    const before = this.#record.stagedFiles.find(
      (file) =>
        file.hostPath === source &&
        file.access === access &&
        file.inode === inode &&
        file.method !== "copy" &&
        (as === undefined || file.jailPath === as),
    );
    if (before) return before.jailPath;
    const jailPath = as ?? this.freePath(`/files/${basename(source)}`);
    if (this.#isTaken(jailPath)) throw new FirecrackerJailerError("as", `${jailPath} is taken in the jail`);
    const facts: StagedFileFacts = {
      kind: stats.isBlockDevice() ? "block" : stats.isFile() ? "file" : "channel",
      uid: stats.uid,
      gid: stats.gid,
      mode: stats.mode & 0o7777,
    };
    const { uid, gid, root } = this.#record;
    const plan = planStaging(facts, access, { uid, gid }, method);
    const parts = jailPath.split("/").slice(1, -1);
    const directory = await openJailDirectory(root, parts, "ours");
    try {
      const step = {
        source,
        directory,
        name: basename(jailPath),
        access,
        uid,
        gid,
        rdev: stats.rdev,
        signal,
      };
      const used = await stageFile(plan.methods, step);
      if (plan.takeOwnership) await this.#takeOwnership(source);
      const staged: StagedFile = { hostPath: source, jailPath, access, method: used, inode };
      await this.#keep({ stagedFiles: [...this.#record.stagedFiles, staged] });
    } finally {
      await directory.close();
    }
    return jailPath;
  }

  /**
   * Takes a block device's node out again; a VMM that has opened the device keeps it open. One that is not there is fine.
   * @throws {FirecrackerJailerError} FC_JAILER when something else was brought in under that path
   */
  async removeNode(jailPath: string): Promise<void> {
    const turn = this.#turn.then(() => this.#removeNode(this.#checkJailPath("jailPath", jailPath)));
    this.#turn = turn.catch(() => {});
    await turn;
  }

  async #removeNode(jailPath: string): Promise<void> {
    const directory = await openJailDirectory(this.#record.root, jailPath.split("/").slice(1, -1), "ours");
    try {
      const name = nameIn(directory, posix.basename(jailPath));
      const facts = await lstat(name).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code !== "ENOENT") throw cause;
      });
      // By what is there, not by the record, which a process that was killed while it staged did not write.
      if (facts && !facts.isBlockDevice())
        throw new FirecrackerJailerError("jailPath", `${jailPath} is not a device node`);
      await rm(name, { force: true });
    } finally {
      await directory.close();
    }
    if (this.#isTaken(jailPath))
      await this.#keep({
        stagedFiles: this.#record.stagedFiles.filter((file) => file.jailPath !== jailPath),
      });
  }

  /** `preferred`, or that with `.1`, `.2`... behind it when a staged or reserved file has the name. */
  freePath(preferred: string): string {
    for (let number = 0; ; number++) {
      const path = number === 0 ? preferred : `${preferred}.${number}`;
      if (!this.#isTaken(path)) return path;
    }
  }

  #isTaken(jailPath: string): boolean {
    return this.#record.stagedFiles.some((file) => file.jailPath === jailPath);
  }

  /** Gives something that we made in the jail (a FIFO, a listening socket) to the jail's user. */
  async giveToJail(jailPath: string): Promise<void> {
    this.#checkJailPath("jailPath", jailPath);
    const { root, uid, gid } = this.#record;
    const directory = await openJailDirectory(root, jailPath.split("/").slice(1, -1), "anyone's");
    try {
      await lchown(nameIn(directory, posix.basename(jailPath)), uid, gid);
    } finally {
      await directory.close();
    }
  }

  async #takeOwnership(path: string): Promise<void> {
    const facts = await stat(path, { bigint: true });
    const taken = {
      path,
      device: String(facts.dev),
      inode: String(facts.ino),
      uid: Number(facts.uid),
      gid: Number(facts.gid),
      mode: Number(facts.mode) & 0o7777,
    };
    await this.#keep({ takenFiles: [...this.#record.takenFiles, taken] });
    await chown(path, this.#record.uid, this.#record.gid);
    await chmod(path, taken.mode | 0o600);
  }

  async #keep(change: Partial<JailRecord>): Promise<void> {
    const next = { ...this.#record, ...change };
    await this.#keepRecord(next);
    this.#record = next;
  }

  /** Removes it with everything in it; see `removeJail`. */
  async remove(): Promise<void> {
    await this.#turn;
    await removeJail(this.#record);
  }

  /** As `remove`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }
}
