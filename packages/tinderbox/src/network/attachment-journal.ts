/** What is kept on disk of each pod's network: written before CNI ADD, so that DEL can follow whatever happens. */
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { syncDirectory, writeFileAtomic } from "../base/write-file.ts";
import type { SandboxInterface } from "../sandbox/contract.ts";
import { type CniNetwork, isObject, type JsonObject } from "./cni-config.ts";
import type { PodNetworkRequest } from "./contract.ts";

export type AttachmentEntry = {
  readonly version: 1;
  readonly netns: string;
  readonly request: PodNetworkRequest;
  readonly network: CniNetwork;
  /** Absent while ADD is under way */
  readonly result?: JsonObject;
  readonly interfaces: readonly SandboxInterface[];
};

const suffix = ".json";

/** The entries below one directory, a file a sandbox. */
export class AttachmentJournal {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  static async open(directory: string): Promise<AttachmentJournal> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    return new AttachmentJournal(directory);
  }

  #path(sandboxId: string): string {
    if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(sandboxId)) {
      throw new TinderboxError(
        "INVALID",
        `sandbox id ${JSON.stringify(sandboxId)}: letters, digits, "_", "." and "-" are allowed`,
      );
    }
    return join(this.#directory, sandboxId + suffix);
  }

  async write(entry: AttachmentEntry): Promise<void> {
    await writeFileAtomic(this.#path(entry.request.sandboxId), JSON.stringify(entry));
  }

  async read(sandboxId: string): Promise<AttachmentEntry | undefined> {
    const path = this.#path(sandboxId);
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (cause) {
      if (errnoOf(cause) === "ENOENT") return undefined;
      throw cause;
    }
    const value: unknown = JSON.parse(text);
    if (
      !isObject(value) ||
      value["version"] !== 1 ||
      !isObject(value["request"]) ||
      !isObject(value["network"])
    ) {
      throw new TinderboxError("INTERNAL", `${path}: not an entry of version 1`);
    }
    // Written by `write` alone, whole or not at all, in a directory that only root can enter.
    return value as unknown as AttachmentEntry;
  }

  async remove(sandboxId: string): Promise<void> {
    await rm(this.#path(sandboxId), { force: true });
    await syncDirectory(this.#directory);
  }

  async ids(): Promise<readonly string[]> {
    const names = await readdir(this.#directory);
    return names.filter((name) => name.endsWith(suffix)).map((name) => name.slice(0, -suffix.length));
  }
}
