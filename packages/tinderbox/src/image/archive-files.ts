/** The files of an image archive (a tar, maybe compressed), unpacked under numbers of our own, so that no name of it is a path here. */
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { posix } from "node:path";
import { PassThrough } from "node:stream";
import { pipeline } from "node:stream/promises";
import { TinderboxError } from "../base/errors.ts";
import { openCompressed } from "./decompress.ts";
import { openRegular } from "./oci-layout.ts";
import { readTar } from "./tar-reader.ts";

export type ArchiveFile = { readonly path: string; readonly size: number; readonly digest: string };

export type ArchiveLimits = { readonly maxEntries: number; readonly maxBytes: number };

export const defaultArchiveLimits: ArchiveLimits = { maxEntries: 10_000, maxBytes: 32 * 2 ** 30 };

const maxLinks = 8;

/** A name as archives have it, in its one form: no leading `./` or `/`, no `..`. */
function plainName(name: string): string {
  return posix.normalize(`/${name}`).slice(1).replace(/\/$/, "");
}

/** Unpacks the regular files of the archive at `archive` into `directory`; links among them are followed by `find`. */
export async function unpackArchive(
  archive: string,
  directory: string,
  signal: AbortSignal,
  limits: ArchiveLimits = defaultArchiveLimits,
): Promise<ArchiveFiles> {
  await (await openRegular(archive, archive)).close();
  const files = new Map<string, ArchiveFile>();
  const links = new Map<string, string>();
  const { source, steps } = await openCompressed(archive);
  const unpacked = new PassThrough();
  const flow = pipeline([source, ...steps, unpacked], { signal });
  flow.catch(() => {});
  let [entries, bytes] = [0, 0];
  try {
    for await (const { entry, body } of readTar(unpacked)) {
      if (++entries > limits.maxEntries)
        throw new TinderboxError("IMAGE_MALFORMED", `more than ${limits.maxEntries} entries`);
      const name = plainName(entry.name);
      if (entry.kind === "symlink")
        links.set(name, posix.join("/", posix.dirname(name), entry.linkName).slice(1));
      if (entry.kind === "link") links.set(name, plainName(entry.linkName));
      if (entry.kind !== "file") continue;
      bytes += entry.size;
      if (bytes > limits.maxBytes)
        throw new TinderboxError("IMAGE_MALFORMED", `more than ${limits.maxBytes} bytes of files`);
      const path = posix.join(directory, String(files.size));
      const hash = createHash("sha256");
      await using file = await open(path, "wx", 0o600);
      for await (const part of body) {
        hash.update(part);
        await file.writeFile(part);
      }
      files.set(name, { path, size: entry.size, digest: `sha256:${hash.digest("hex")}` });
      links.delete(name);
    }
    await flow;
  } catch (cause) {
    signal.throwIfAborted();
    throw cause instanceof TinderboxError || !(cause instanceof Error) || /^E[A-Z]+$/.test(codeOf(cause))
      ? cause
      : new TinderboxError("IMAGE_MALFORMED", cause.message, { cause });
  } finally {
    source.destroy();
    unpacked.destroy();
  }
  return new ArchiveFiles(files, links);
}

function codeOf(cause: Error): string {
  return "code" in cause ? String(cause.code) : "";
}

export class ArchiveFiles {
  readonly #files: ReadonlyMap<string, ArchiveFile>;
  readonly #links: ReadonlyMap<string, string>;

  constructor(files: ReadonlyMap<string, ArchiveFile>, links: ReadonlyMap<string, string>) {
    this.#files = files;
    this.#links = links;
  }

  /** @throws NOT_FOUND */
  find(name: string): ArchiveFile {
    let at = plainName(name);
    for (let links = 0; links < maxLinks; links++) {
      const file = this.#files.get(at);
      if (file !== undefined) return file;
      at = this.#links.get(at) ?? "";
    }
    throw new TinderboxError("NOT_FOUND", `${JSON.stringify(name.slice(0, 200))} is not there`);
  }

  /** As a layout's files. */
  async open(name: string): Promise<FileHandle> {
    return open(this.find(name).path, "r");
  }
}
