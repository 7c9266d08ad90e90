/** What is known of images, in SQLite: records, names, holders. The files themselves are the service's. */
import { existsSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import * as v from "valibot";
import { TinderboxError } from "../base/errors.ts";
import type { Digest, Image, ImageConfig } from "./contract.ts";
import type { HeldSignature } from "./held-signature.ts";

const schema = `
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS images (
  id TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, config TEXT NOT NULL, passwd TEXT NOT NULL, grp TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, id TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS signatures (
  id TEXT NOT NULL, payload TEXT NOT NULL, base64 TEXT NOT NULL, PRIMARY KEY (id, payload, base64)
) STRICT;
CREATE TABLE IF NOT EXISTS holders (id TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (id, owner)) STRICT;
`;

const configSchema = v.object({
  user: v.string(),
  env: v.array(v.string()),
  entrypoint: v.array(v.string()),
  cmd: v.array(v.string()),
  workingDir: v.string(),
  stopSignal: v.string(),
  labels: v.record(v.string(), v.string()),
  volumes: v.array(v.string()),
});

const rowSchema = v.object({
  id: v.string(),
  size_bytes: v.number(),
  config: v.string(),
  passwd: v.string(),
  grp: v.string(),
});
const nameSchema = v.object({ name: v.string(), id: v.string() });
const signatureSchema = v.object({ id: v.string(), payload: v.string(), base64: v.string() });
const holderSchema = v.object({ id: v.string(), owner: v.string() });

type NewImage = {
  readonly id: Digest;
  readonly sizeBytes: number;
  readonly config: ImageConfig;
  readonly passwd: string;
  readonly group: string;
};

export type StoreOptions = {
  /** Whether an image with these names is pinned */
  readonly isPinned: (names: readonly string[]) => boolean;
  /** Told when the database could not be read; it is put aside as `kept`, and an empty one takes its place */
  readonly onDamage: (damage: string, kept: string) => void;
};

/** Opens the database, or a new one in place of one that SQLite finds broken. */
function openDatabase(path: string, onDamage: StoreOptions["onDamage"]): DatabaseSync {
  const open = (): DatabaseSync => {
    const db = new DatabaseSync(path);
    try {
      db.exec(schema);
      const { quick_check: verdict } = v.parse(
        v.object({ quick_check: v.string() }),
        db.prepare("PRAGMA quick_check(1)").get(),
      );
      if (verdict !== "ok") throw new TinderboxError("INTERNAL", verdict);
      return db;
    } catch (cause) {
      db.close();
      throw cause;
    }
  };
  try {
    return open();
  } catch (cause) {
    const { message } = TinderboxError.from(cause);
    // Anything else (no space, no permission) is not mended by an empty database.
    if (!(cause instanceof TinderboxError) && !/malformed|not a database|disk image|corrupt/i.test(message))
      throw cause;
    const kept = `${path}.damaged`;
    if (existsSync(path)) renameSync(path, kept);
    for (const journal of ["-wal", "-shm"]) rmSync(`${path}${journal}`, { force: true });
    onDamage(message, kept);
    return open();
  }
}

/** All methods are synchronous; each change is one transaction. */
export class ImageStore {
  readonly #directory: string;
  readonly #isPinned: StoreOptions["isPinned"];
  readonly #db: DatabaseSync;
  readonly #images = new Map<Digest, NewImage>();
  readonly #names = new Map<string, Digest>();
  readonly #holders = new Map<Digest, Set<string>>();
  readonly #signatures = new Map<Digest, HeldSignature[]>();

  constructor(directory: string, { isPinned, onDamage }: StoreOptions) {
    this.#directory = directory;
    this.#isPinned = isPinned;
    this.#db = openDatabase(join(directory, "images.db"), onDamage);
    for (const row of this.#db.prepare("SELECT * FROM images").all()) {
      const { id, size_bytes, config, passwd, grp } = v.parse(rowSchema, row);
      const digest = id as Digest;
      this.#images.set(digest, {
        id: digest,
        sizeBytes: size_bytes,
        config: v.parse(configSchema, JSON.parse(config)),
        passwd,
        group: grp,
      });
    }
    for (const row of this.#db.prepare("SELECT * FROM names").all()) {
      const { name, id } = v.parse(nameSchema, row);
      this.#names.set(name, id as Digest);
    }
    for (const row of this.#db.prepare("SELECT * FROM holders").all()) {
      const { id, owner } = v.parse(holderSchema, row);
      this.#holdersOf(id as Digest).add(owner);
    }
    for (const row of this.#db.prepare("SELECT * FROM signatures").all()) {
      const { id, payload, base64 } = v.parse(signatureSchema, row);
      this.#signatures.set(id as Digest, [...this.signaturesOf(id as Digest), { payload, base64 }]);
    }
  }

  #holdersOf(id: Digest): Set<string> {
    const owners = this.#holders.get(id) ?? new Set();
    this.#holders.set(id, owners);
    return owners;
  }

  blockPath(id: Digest): string {
    return join(this.#directory, "blocks", `${id.slice(id.indexOf(":") + 1)}.sqfs`);
  }

  /** Of the image's file when it was made; undefined: no such image */
  sizeOf(id: Digest): number | undefined {
    return this.#images.get(id)?.sizeBytes;
  }

  signaturesOf(id: Digest): readonly HeldSignature[] {
    return this.#signatures.get(id) ?? [];
  }

  /** Adds signatures that the policy has accepted; they go with the image. */
  keepSignatures(id: Digest, signatures: readonly HeldSignature[]): void {
    for (const { payload, base64 } of signatures) {
      const { changes } = this.#db
        .prepare("INSERT OR IGNORE INTO signatures VALUES (?, ?, ?)")
        .run(id, payload, base64);
      if (changes > 0) this.#signatures.set(id, [...this.signaturesOf(id), { payload, base64 }]);
    }
  }

  insert(image: NewImage): void {
    this.#db
      .prepare("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?)")
      .run(image.id, image.sizeBytes, JSON.stringify(image.config), image.passwd, image.group);
    this.#images.set(image.id, image);
  }

  /** Gives an image its names; a tag that another image had moves. */
  name(id: Digest, ...names: (string | undefined)[]): void {
    for (const name of names) {
      if (name === undefined) continue;
      this.#db.prepare("INSERT OR REPLACE INTO names VALUES (?, ?)").run(name, id);
      this.#names.set(name, id);
    }
  }

  byId(id: Digest): Image | undefined {
    const record = this.#images.get(id);
    if (!record) return undefined;
    const names = [...this.#names].filter(([, named]) => named === id).map(([name]) => name);
    if (names.length === 0) return undefined;
    return {
      ...record,
      isPinned: this.#isPinned(names),
      repoTags: names.filter((name) => !name.includes("@")).sort(),
      repoDigests: names.filter((name) => name.includes("@")).sort(),
      blockPath: this.blockPath(id),
      fsType: "squashfs",
    };
  }

  byName(name: string): Image | undefined {
    const id = this.#names.get(name);
    return id === undefined ? undefined : this.byId(id);
  }

  /** By id, with or without `sha256:`, or a prefix of at least 4 digits that only one image has. */
  byIdPrefix(text: string): Image | undefined {
    const hex = text.replace(/^sha256:/, "");
    if (!/^[0-9a-f]{4,128}$/.test(hex)) return undefined;
    const fits = [...this.#images.keys()].filter((id) => id.slice(id.indexOf(":") + 1).startsWith(hex));
    return fits.length === 1 && fits[0] !== undefined ? this.byId(fits[0]) : undefined;
  }

  /** Of all records, also of images that have no name (any more). */
  ids(): readonly Digest[] {
    return [...this.#images.keys()];
  }

  list(): readonly Image[] {
    return [...this.#images.keys()].flatMap((id) => this.byId(id) ?? []);
  }

  /** Takes all names away. */
  forget(id: Digest): void {
    this.#db.prepare("DELETE FROM names WHERE id = ?").run(id);
    for (const [name, named] of this.#names) if (named === id) this.#names.delete(name);
  }

  hold(id: Digest, owner: string): Image {
    const image = this.byId(id);
    if (!image) throw new TinderboxError("NOT_FOUND", `no image ${id}`);
    this.#db.prepare("INSERT OR IGNORE INTO holders VALUES (?, ?)").run(id, owner);
    this.#holdersOf(id).add(owner);
    return image;
  }

  release(id: Digest, owner: string): void {
    this.#db.prepare("DELETE FROM holders WHERE id = ? AND owner = ?").run(id, owner);
    this.#holdersOf(id).delete(owner);
  }

  holders(): { id: Digest; owner: string }[] {
    return [...this.#holders].flatMap(([id, owners]) => [...owners].map((owner) => ({ id, owner })));
  }

  /** Drops the record of an image without names and holders; true when its file shall go. */
  dropUnused(id: Digest): boolean {
    const named = [...this.#names.values()].includes(id);
    if (named || this.#holdersOf(id).size > 0 || !this.#images.has(id)) return false;
    this.#db.prepare("DELETE FROM images WHERE id = ?").run(id);
    this.#db.prepare("DELETE FROM signatures WHERE id = ?").run(id);
    this.#images.delete(id);
    this.#signatures.delete(id);
    return true;
  }

  close(): void {
    this.#db.close();
  }
}
