/**
 * The CDI devices of this node. Directories are looked through whenever a device is asked for, and files read again when they have
 * changed: nothing watches them meanwhile.
 */
import { basename } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { type CdiFile, type FileEdits, parseCdiFile } from "./cdi-file.ts";
import type { CdiRequest, CdiStatus, ContainerEdits } from "./contract.ts";
import { type FileMark, listCdiFiles, markOfFile, readTrusted } from "./trusted-file.ts";

/** How many faults of files an error tells */
const maxToldProblems = 5;

type ReadFile = { readonly mark: FileMark } & (
  | { readonly file: CdiFile; readonly problem?: never }
  | { readonly problem: string; readonly file?: never }
);

type Found = { readonly path: string; readonly file: CdiFile; readonly edits: FileEdits };

type Snapshot = {
  /** Qualified name to the file that has it, or to the files of one directory that contradict each other */
  readonly devices: ReadonlyMap<string, Found | { readonly conflict: readonly string[] }>;
  readonly problems: readonly string[];
};

const message = (cause: unknown): string => TinderboxError.from(cause).message;

async function read(path: string): Promise<ReadFile> {
  let mark = "";
  try {
    const trusted = await readTrusted(path);
    mark = trusted.mark;
    return { mark, file: parseCdiFile(trusted.content, path.endsWith(".json") ? "json" : "yaml") };
  } catch (cause) {
    return { mark, problem: message(cause) };
  }
}

/** The devices that the files in some directories describe. */
export class CdiRegistry {
  /** The later one wins */
  readonly #directories: readonly string[];
  #files = new Map<string, ReadFile>();

  constructor(directories: readonly string[]) {
    this.#directories = directories;
  }

  async #readAll(directory: string, problems: string[]): Promise<ReadonlyMap<string, ReadFile>> {
    let paths: readonly string[] = [];
    try {
      paths = await listCdiFiles(directory);
    } catch (cause) {
      problems.push(`${directory} is not used: ${message(cause)}`);
    }
    const files = new Map<string, ReadFile>();
    for (const path of paths) {
      const known = this.#files.get(path);
      const mark = await markOfFile(path).catch(() => "");
      files.set(path, known !== undefined && known.mark === mark ? known : await read(path));
    }
    return files;
  }

  async #snapshot(): Promise<Snapshot> {
    const problems: string[] = [];
    const devices = new Map<string, Found | { readonly conflict: readonly string[] }>();
    const all = new Map<string, ReadFile>();
    for (const directory of this.#directories) {
      const here = new Map<string, Found | { readonly conflict: readonly string[] }>();
      for (const [path, one] of await this.#readAll(directory, problems)) {
        all.set(path, one);
        if (one.file === undefined) {
          problems.push(`${path}: ${one.problem}`);
          continue;
        }
        for (const [device, edits] of one.file.devices) {
          const name = `${one.file.kind}=${device}`;
          const other = here.get(name);
          if (other === undefined) here.set(name, { path, file: one.file, edits });
          else here.set(name, { conflict: [...("conflict" in other ? other.conflict : [other.path]), path] });
        }
      }
      for (const [name, found] of here) devices.set(name, found);
    }
    this.#files = all;
    return { devices, problems };
  }

  /** What the devices change, in the order in which they are asked for. @throws INVALID UNSUPPORTED naming field and device */
  async edits(requests: readonly CdiRequest[]): Promise<ContainerEdits> {
    const { devices, problems } = await this.#snapshot();
    const parts: FileEdits[] = [];
    const files = new Set<CdiFile>();
    for (const { field, name } of requests) {
      const found = devices.get(name);
      if (found === undefined) {
        const where = this.#directories.join(", ") || "no directory: cdi_spec_dirs is empty";
        const faults = problems.slice(0, maxToldProblems).map((one) => `; ${one}`);
        throw new TinderboxError(
          "INVALID",
          `${field}: ${JSON.stringify(name)}: there is no such CDI device; looked for in ${where}${faults.join("")}`,
        );
      }
      if ("conflict" in found)
        throw new TinderboxError(
          "INVALID",
          `${field}: ${JSON.stringify(name)}: more than one file describes it: ${found.conflict.join(", ")}`,
        );
      const own = files.has(found.file) ? [found.edits] : [found.file.edits, found.edits];
      files.add(found.file);
      for (const { notMade } of own)
        if (notMade[0] !== undefined)
          throw new TinderboxError(
            "UNSUPPORTED",
            `${field}: ${JSON.stringify(name)}: containerEdits.${notMade[0]} of ${basename(found.path)} is not supported`,
          );
      parts.push(...own);
    }
    return {
      names: requests.map(({ name }) => name),
      env: parts.flatMap(({ env }) => env),
      deviceNodes: parts.flatMap(({ deviceNodes }) => deviceNodes),
      mounts: parts.flatMap(({ mounts }) => mounts),
      hooks: parts.flatMap(({ hooks }) => hooks),
      additionalGids: [...new Set(parts.flatMap(({ additionalGids }) => additionalGids))],
    };
  }

  /** What there is now; for people. */
  async status(): Promise<CdiStatus> {
    const { devices, problems } = await this.#snapshot();
    const conflicts = [...devices].flatMap(([name, found]) =>
      "conflict" in found ? [`${name}: more than one file describes it: ${found.conflict.join(", ")}`] : [],
    );
    const usable = [...devices].filter(([, found]) => !("conflict" in found)).map(([name]) => name);
    return {
      specDirs: this.#directories,
      devices: usable.sort(),
      problems: [...problems, ...conflicts],
    };
  }
}
