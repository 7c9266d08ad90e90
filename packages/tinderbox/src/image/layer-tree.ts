/**
 * The file system that layers make, as a tree in memory: what a whiteout, an opaque directory, a hard link or a
 * symbolic link among the parents of a path does. No file is touched; bodies stay in their layers.
 */
import { TinderboxError } from "../base/errors.ts";
import type { TarEntry } from "./tar-entry.ts";

/** What the names of one file share. */
export type Inode = {
  /** Which entry it came from: number of the layer and of the entry in it; -1 for a directory that no entry names */
  readonly layer: number;
  readonly index: number;
  /** `name` in it is not the path: an inode may have several */
  readonly entry: TarEntry;
};

type Node = {
  readonly inode: Inode;
  /** Of a directory */
  readonly children: Map<string, Node> | undefined;
  /** The last layer that put this node or one below it */
  touched: number;
};

type Directory = Node & { readonly children: Map<string, Node> };

/** As many as Linux follows. */
const maxLinks = 40;
const maxPathBytes = 4096;
const maxNameBytes = 255;

function shown(name: string): string {
  return JSON.stringify(Buffer.from(name.slice(0, 200), "latin1").toString("utf8"));
}

function malformed(why: string): TinderboxError {
  return new TinderboxError("IMAGE_MALFORMED", why);
}

/** The components of a layer's path. @throws IMAGE_MALFORMED for one that leaves the root or that no file system takes */
export function pathParts(name: string): readonly string[] {
  const parts = name.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.includes("..")) throw malformed(`layer entry ${shown(name)}: the path leaves the image`);
  if (name.includes("\0") || name.length > maxPathBytes || parts.some((part) => part.length > maxNameBytes))
    throw malformed(
      `layer entry ${shown(name)}: at most ${maxPathBytes} bytes, ${maxNameBytes} for each name, no NUL`,
    );
  return parts;
}

const plainDirectory: TarEntry = {
  ...{ kind: "directory", name: "", linkName: "", mode: 0o755, uid: 0, gid: 0, mtime: 0, size: 0 },
  ...{ deviceMajor: 0, deviceMinor: 0, xattrs: new Map() },
};

function newDirectory(inode: Inode, children = new Map<string, Node>()): Directory {
  return { inode, children, touched: inode.layer };
}

function isDirectory(node: Node | undefined): node is Directory {
  return node?.children !== undefined;
}

export class LayerTree {
  /** Of any entry that was added, seconds since 1970 */
  latestTime = 0;
  #root: Directory = newDirectory({ layer: -1, index: -1, entry: plainDirectory });

  /**
   * Applies an entry of `layer`; layers and their entries must come in order.
   * @throws IMAGE_MALFORMED for a path or link that leads nowhere
   */
  add(layer: number, index: number, entry: TarEntry): void {
    const parts = pathParts(entry.name);
    const name = parts.at(-1);
    this.latestTime = Math.max(this.latestTime, entry.mtime);
    if (name === undefined) {
      if (entry.kind !== "directory") throw malformed(`layer entry ${shown(entry.name)} is not a directory`);
      this.#root = newDirectory({ layer, index, entry }, this.#root.children);
      return;
    }
    const parents = parts.slice(0, -1);
    if (name.startsWith(".wh.")) {
      this.#whiteOut(layer, parents, name);
      return;
    }
    const chain = this.#walk(parents, layer, true, entry.name);
    const parent = chain?.at(-1);
    if (parent === undefined) throw malformed(`layer entry ${shown(entry.name)} has no directory to be in`);
    const before = parent.children.get(name);
    // What is replaced is gone before a link is made: it cannot be its own target.
    if (entry.kind === "link") parent.children.delete(name);
    const inode = entry.kind === "link" ? this.#linked(entry) : { layer, index, entry };
    const children = isDirectory(before) ? before.children : new Map<string, Node>();
    // Overlay would take this device for a whiteout: it shows nothing at all in its place.
    const isWhiteoutDevice =
      entry.kind === "character-device" && entry.deviceMajor === 0 && entry.deviceMinor === 0;
    if (isWhiteoutDevice) parent.children.delete(name);
    else if (entry.kind === "directory") parent.children.set(name, { inode, children, touched: layer });
    else parent.children.set(name, { inode, children: undefined, touched: layer });
    for (const ancestor of chain ?? []) ancestor.touched = layer;
  }

  /** The inode of a hard link's target. */
  #linked(entry: TarEntry): Inode {
    const parts = pathParts(entry.linkName);
    const parent = this.#walk(parts.slice(0, -1), 0, false, entry.linkName)?.at(-1);
    const target = parent?.children.get(parts.at(-1) ?? "");
    if (target === undefined || isDirectory(target))
      throw malformed(`hard link ${shown(entry.name)} has no target ${shown(entry.linkName)}`);
    return target.inode;
  }

  #whiteOut(layer: number, parents: readonly string[], name: string): void {
    if (name !== ".wh..wh..opq" && name.startsWith(".wh..wh.")) return; // of aufs itself
    const hidden = name.slice(".wh.".length);
    if (["", ".", ".."].includes(hidden)) throw malformed(`whiteout ${shown(name)} names nothing`);
    const parent = this.#walk(parents, layer, false, name)?.at(-1);
    if (parent === undefined) return;
    if (name === ".wh..wh..opq") removeLower(parent, layer);
    else {
      const node = parent.children.get(hidden);
      if (node === undefined) return;
      if (node.touched < layer) parent.children.delete(hidden);
      // A layer's whiteouts are for the layers below it.
      else if (isDirectory(node)) removeLower(node, layer);
    }
  }

  /**
   * The directories from the root to the one that `parts` name, symbolic links followed inside the tree. Missing ones
   * are made on request; otherwise undefined.
   */
  #walk(
    parts: readonly string[],
    layer: number,
    make: boolean,
    name: string,
  ): readonly Directory[] | undefined {
    const todo = parts.toReversed();
    let chain: Directory[] = [this.#root];
    let links = 0;
    for (let part = todo.pop(); part !== undefined; part = todo.pop()) {
      if (part === "" || part === ".") continue;
      if (part === "..") {
        if (chain.length > 1) chain.pop();
        continue;
      }
      const at = chain.at(-1) ?? this.#root;
      let next = at.children.get(part);
      if (next === undefined) {
        if (!make) return undefined;
        const made = newDirectory({ layer, index: -1, entry: plainDirectory });
        at.children.set(part, made);
        next = made;
      }
      if (isDirectory(next)) chain.push(next);
      else if (next.inode.entry.kind === "symlink") {
        const target = next.inode.entry.linkName;
        if (++links > maxLinks || target.length > maxPathBytes)
          throw malformed(`layer entry ${shown(name)}: too many symbolic links`);
        if (target.startsWith("/")) chain = [this.#root];
        todo.push(...target.split("/").toReversed());
      } else if (make) throw malformed(`layer entry ${shown(name)}: ${shown(part)} is not a directory`);
      else return undefined;
    }
    return chain;
  }

  /** The inode at a path, symbolic links followed; undefined when nothing is there. */
  find(path: string): Inode | undefined {
    let wanted = path;
    for (let links = 0; links <= maxLinks; links++) {
      const slash = wanted.lastIndexOf("/");
      const parents = wanted.slice(0, Math.max(slash, 0));
      const parent = this.#walk(parents.split("/"), 0, false, wanted)?.at(-1);
      const inode = parent?.children.get(wanted.slice(slash + 1))?.inode;
      if (inode?.entry.kind !== "symlink") return inode;
      const target = inode.entry.linkName;
      wanted = target.startsWith("/") ? target : `${parents}/${target}`;
    }
    return undefined;
  }

  get root(): TarEntry {
    return this.#root.inode.entry;
  }

  /** Every path but the root's with its inode, parents first, names of a directory in byte order. */
  *paths(): Generator<{ readonly path: string; readonly inode: Inode }> {
    const todo: { path: string; node: Directory }[] = [{ path: "", node: this.#root }];
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      for (const name of [...next.node.children.keys()].sort()) {
        const node = next.node.children.get(name);
        if (node === undefined) continue;
        const path = next.path === "" ? name : `${next.path}/${name}`;
        yield { path, inode: node.inode };
        if (isDirectory(node)) todo.push({ path, node });
      }
    }
  }
}

/** Removes what layers below `layer` put below `directory`. */
function removeLower(directory: Directory, layer: number): void {
  for (const [name, node] of directory.children) {
    if (node.touched < layer) directory.children.delete(name);
    else if (isDirectory(node)) removeLower(node, layer);
  }
}
