/** The engine's durable memory: one row a pod and one a container, written before the thing itself is touched. */
import { DatabaseSync } from "node:sqlite";
import { TinderboxError } from "../base/errors.ts";
import { span } from "../base/trace.ts";
import type { PodNetwork } from "../network/contract.ts";
import type { SandboxRecord } from "../sandbox/contract.ts";
import type { Container, Pod } from "./contract.ts";
import type { OciProcess } from "./oci-spec.ts";

/** `starting` and `removing` are cleaned up when found at a start; `stopping` is finished. */
export type PodStage = "starting" | "ready" | "stopping" | "notready" | "removing";

export type StoredPod = {
  readonly pod: Pod;
  readonly stage: PodStage;
  readonly network: PodNetwork | undefined;
  /** Absent until the sandbox is planned, and once no trace of it is left */
  readonly record: SandboxRecord | undefined;
};

export type ContainerStage = "creating" | "made" | "removing";

export type StoredContainer = {
  readonly container: Container;
  readonly stage: ContainerStage;
  readonly process: OciProcess;
};

const bigintMark = "$bigint";

function toJson(value: unknown): string {
  return JSON.stringify(value, (_, one) => (typeof one === "bigint" ? { [bigintMark]: String(one) } : one));
}

function fromJson(text: string): unknown {
  return JSON.parse(text, (_, one) =>
    typeof one === "object" && one !== null && typeof one[bigintMark] === "string"
      ? BigInt(one[bigintMark])
      : one,
  );
}

const schemaVersion = 2;

/** Opens or makes `<root>/engine.db`. */
export class Store {
  readonly #db: DatabaseSync;

  constructor(path: string) {
    this.#db = new DatabaseSync(path);
    this.#db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;");
    this.#db.exec(`
      CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
      CREATE TABLE IF NOT EXISTS pods (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
      CREATE TABLE IF NOT EXISTS containers (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    `);
    const version = this.meta("schema");
    if (version === undefined) this.setMeta("schema", String(schemaVersion));
    else if (version !== String(schemaVersion)) {
      this.#db.close();
      throw new TinderboxError("CONFIG", `${path}: schema ${version}; this version reads ${schemaVersion}`, {
        hint: "Remove the pods with the version that wrote it, then the file.",
      });
    }
  }

  meta(key: string): string | undefined {
    const value = this.#db.prepare("SELECT value FROM meta WHERE key = ?").get(key)?.["value"];
    return typeof value === "string" ? value : undefined;
  }

  setMeta(key: string, value: string): void {
    this.#db.prepare("INSERT OR REPLACE INTO meta VALUES (?, ?)").run(key, value);
  }

  #bodies(table: "pods" | "containers"): readonly unknown[] {
    return this.#db
      .prepare(`SELECT body FROM ${table} ORDER BY rowid`)
      .all()
      .map(({ body }) => fromJson(String(body)));
  }

  // Rows are written by this class alone, whole, under one schema version: their shape is known.
  pods(): readonly StoredPod[] {
    return this.#bodies("pods") as readonly StoredPod[];
  }

  containers(): readonly StoredContainer[] {
    return this.#bodies("containers") as readonly StoredContainer[];
  }

  savePod(stored: StoredPod): void {
    const sql = "INSERT INTO pods VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body";
    span("write", "pod's row", () => this.#db.prepare(sql).run(stored.pod.id, toJson(stored)));
  }

  saveContainer(stored: StoredContainer): void {
    const sql = "INSERT INTO containers VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body";
    span("write", "container's row", () => this.#db.prepare(sql).run(stored.container.id, toJson(stored)));
  }

  deletePod(id: string): void {
    this.#db.prepare("DELETE FROM pods WHERE id = ?").run(id);
  }

  deleteContainer(id: string): void {
    this.#db.prepare("DELETE FROM containers WHERE id = ?").run(id);
  }

  close(): void {
    this.#db.close();
  }
}
