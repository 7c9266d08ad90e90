/**
 * Machines written down before they are started, so that after our own death (kill -9 too) the living are found again
 * and what the dead left is removed. One directory, a JSON file a machine: temp, fsync, rename.
 */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { FirecrackerLaunchError } from "./errors.ts";
import { type Leftover, removeLeftovers } from "./leftovers.ts";
import { bootId, findVmms, isVmmAlive, type VmmIdentity } from "./process-identity.ts";

/** What is written down of one machine. */
export type JournalRecord = {
  /** The instance's id, and the record's name */
  readonly id: string;
  /** Host path of the API's socket */
  readonly apiSocket: string;
  /** Arguments in a row by which a VMM is known whose pid was not yet written down */
  readonly commandMark: readonly string[];
  /** Its root directory on the host, for a jailed VMM */
  readonly rootDirectory?: string | undefined;
  /** The boot of the host that it ran in */
  readonly bootId: string;
  /** Unknown between the spawn and the next write */
  readonly identity?: VmmIdentity | undefined;
  /** Host path of its vsock's socket */
  readonly vsockPath?: string | undefined;
  /** What to remove after its end */
  readonly leftovers: readonly Leftover[];
};

/** A machine that was found alive: `adoptMachine` takes it. */
export type LiveRecord = JournalRecord & {
  /** It lives */
  readonly identity: VmmIdentity;
  /** Its place in the journal */
  readonly journal: JournalEntry;
};

/** What a journal was found to hold. */
export type Recovery = {
  /** Machines that run */
  readonly live: readonly LiveRecord[];
  /** Ids of machines that were dead; what they left is removed */
  readonly cleaned: readonly string[];
  /** Records that cannot be read or whose leftovers cannot be removed, with the reason; they stay */
  readonly failed: readonly {
    /** Of the record */
    readonly id: string;
    /** Why */
    readonly cause: unknown;
  }[];
};

async function writeDurably(directory: string, name: string, text: string): Promise<void> {
  const temporary = join(directory, `.${name}.${process.pid}.tmp`);
  const file = await open(temporary, "w", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, join(directory, name));
  await syncDirectory(directory);
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** One machine's place in a journal. */
export class JournalEntry {
  readonly #directory: string;
  #record: JournalRecord;
  #writes: Promise<void> = Promise.resolve();

  /** @internal */
  constructor(directory: string, record: JournalRecord) {
    this.#directory = directory;
    this.#record = record;
  }

  /** Writes changes down; resolves when they are on the disk. */
  update(changes: Partial<JournalRecord>): Promise<void> {
    this.#record = { ...this.#record, ...changes };
    return this.#queue(() =>
      writeDurably(this.#directory, `${this.#record.id}.json`, JSON.stringify(this.#record)),
    );
  }

  /** Forgets the machine. */
  remove(): Promise<void> {
    return this.#queue(() => rm(join(this.#directory, `${this.#record.id}.json`), { force: true }));
  }

  #queue(act: () => Promise<void>): Promise<void> {
    const turn = this.#writes.then(act);
    this.#writes = turn.catch(() => {});
    return turn;
  }
}

function isIdentity(value: unknown): value is VmmIdentity {
  return (
    typeof value === "object" &&
    value !== null &&
    "pid" in value &&
    typeof value.pid === "number" &&
    "startTime" in value &&
    typeof value.startTime === "string"
  );
}

function parseRecord(text: string): JournalRecord {
  const value: unknown = JSON.parse(text);
  const fail = (what: string): never => {
    throw new FirecrackerLaunchError(`not a journal record: ${what}`);
  };
  if (typeof value !== "object" || value === null) return fail("no object");
  // Each field is looked at below; the index signature is for that only.
  const record = value as Readonly<Record<string, unknown>>;
  for (const key of ["id", "apiSocket", "bootId"]) if (typeof record[key] !== "string") fail(key);
  for (const key of ["commandMark", "leftovers"]) if (!Array.isArray(record[key])) fail(key);
  if (record["identity"] !== undefined && !isIdentity(record["identity"])) fail("identity");
  return value as JournalRecord;
}

/** A directory of records. One process at a time may use it. */
export class MachineJournal {
  /** Host path */
  readonly directory: string;

  /** The directory is made when it is first needed. */
  constructor(directory: string) {
    this.directory = directory;
  }

  /** Writes a machine down before it is started. @throws {FirecrackerLaunchError} FC_LAUNCH when the id is in use */
  async begin(record: Omit<JournalRecord, "bootId">): Promise<JournalEntry> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    if ((await readdir(this.directory)).includes(`${record.id}.json`))
      throw new FirecrackerLaunchError(`machine ${record.id} is in ${this.directory} already`);
    const full = { ...record, bootId: bootId() };
    const entry = new JournalEntry(this.directory, full);
    await entry.update({});
    return entry;
  }

  /** Sorts the records into the living and the dead, and removes what the dead left. Kills nothing. */
  async recover(): Promise<Recovery> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    const live: LiveRecord[] = [];
    const cleaned: string[] = [];
    const failed: { id: string; cause: unknown }[] = [];
    for (const name of await readdir(this.directory)) {
      if (name.startsWith(".") && name.endsWith(".tmp"))
        await rm(join(this.directory, name), { force: true });
      if (name.startsWith(".") || !name.endsWith(".json")) continue;
      const id = name.slice(0, -".json".length);
      try {
        const record = parseRecord(await readFile(join(this.directory, name), "utf8"));
        if (record.id !== id) throw new FirecrackerLaunchError(`${name} is the record of ${record.id}`);
        const journal = new JournalEntry(this.directory, record);
        const identity = livingIdentity(record);
        if (identity !== undefined) {
          if (record.identity === undefined) await journal.update({ identity });
          live.push({ ...record, identity, journal });
          continue;
        }
        await removeLeftovers(record.leftovers);
        await journal.remove();
        cleaned.push(id);
      } catch (cause) {
        failed.push({ id, cause });
      }
    }
    return { live, cleaned, failed };
  }
}

function livingIdentity(record: JournalRecord): VmmIdentity | undefined {
  // Start times count from the boot: those of another one mean nothing.
  if (record.bootId !== bootId()) return undefined;
  if (record.identity !== undefined) return isVmmAlive(record.identity) ? record.identity : undefined;
  const [found, ...more] = findVmms(record.commandMark, record.rootDirectory);
  if (more.length > 0)
    throw new FirecrackerLaunchError(
      `which process is machine ${record.id}? ${[found, ...more].map((vmm) => vmm?.pid).join(", ")} look like it`,
    );
  return found;
}
