// What was found out about this host once and need not be tried again: a small JSON file in the user's cache.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

const path = join(
  process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"),
  "tinderbox",
  "firecracker-qemu.json",
);

export type Memory = Readonly<Record<string, unknown>>;

export function readMemory(): Memory {
  try {
    const value: unknown = JSON.parse(readFileSync(path, "utf8"));
    return typeof value === "object" && value !== null ? Object.fromEntries(Object.entries(value)) : {};
  } catch {
    // Not there, or cut off: it is found out again.
    return {};
  }
}

export function writeMemory(key: string, value: boolean | number): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(`${path}.${process.pid}`, JSON.stringify({ ...readMemory(), [key]: value }));
    renameSync(`${path}.${process.pid}`, path);
  } catch {
    // A read-only home only costs the next start another try.
  }
}
