/** What a directory tree is, line by line, to compare two of them; no resolution of anything. */
import { createHash } from "node:crypto";
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";

const kinds = new Map([
  [0o040000, "directory"],
  [0o100000, "file"],
  [0o120000, "symlink"],
  [0o020000, "char"],
  [0o060000, "block"],
  [0o010000, "fifo"],
]);

/** Every path below `root` but itself with kind, mode, owner, content, and which paths are one file. `seen` may hide paths. */
export function describeTree(root: string): string[] {
  const lines: string[] = [];
  const firstOf = new Map<string, string>();
  const walk = (path: string): void => {
    const names = readdirSync(`${root}/${path}`, { encoding: "latin1" }).sort();
    for (const name of names) {
      const at = path === "" ? name : `${path}/${name}`;
      const real = Buffer.concat([Buffer.from(`${root}/`), Buffer.from(at, "latin1")]);
      const info = lstatSync(real);
      const kind = kinds.get(info.mode & 0o170000) ?? "?";
      const identity = `${info.dev}:${info.ino}`;
      const first = firstOf.get(identity);
      if (kind !== "directory" && first === undefined) firstOf.set(identity, at);
      const content =
        kind === "file"
          ? createHash("sha256").update(readFileSync(real)).digest("hex").slice(0, 12)
          : kind === "symlink"
            ? readlinkSync(real, { encoding: "latin1" })
            : kind === "char" || kind === "block"
              ? String(info.rdev)
              : "";
      const mode = kind === "symlink" ? "" : (info.mode & 0o7777).toString(8);
      const same = first === undefined || kind === "directory" ? "" : ` = ${first}`;
      lines.push(`${at} ${kind} ${mode} ${info.uid}:${info.gid} ${content}${same}`);
      if (kind === "directory") walk(at);
    }
  };
  walk("");
  return lines;
}
