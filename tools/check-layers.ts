/** Fails when a folder of the node software imports one that it may not. The table is the design's, see docs/architecture.md. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const source = resolve(import.meta.dirname, "../packages/tinderbox/src");

/** Folder to the folders it may import (besides itself). `x/y` allows only the file y.ts of x. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  base: [],
  rpc: ["base"],
  native: ["base"],
  cdi: ["base"],
  image: ["base", "native"],
  network: ["base", "native", "sandbox/contract"],
  guest: ["base", "native", "image"],
  sandbox: ["base", "rpc", "native", "image", "network"],
  engine: ["base", "native", "cdi", "image", "network", "sandbox", "rpc", "daemon/config"],
  cri: [
    "base",
    "rpc",
    "cdi/contract",
    "cdi/device-name",
    "native/app-armor",
    "engine",
    "image",
    "sandbox/contract",
    "network/contract",
  ],
  cli: ["base", "rpc", "native", "cdi", "guest", "image"],
  daemon: ["base", "rpc", "native", "cdi", "image", "network", "guest", "sandbox", "engine", "cri"],
};

function* sourceFiles(directory: string): Generator<string> {
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) yield* sourceFiles(path);
    else if (entry.name.endsWith(".ts")) yield path;
  }
}

const faults: string[] = [];
for (const file of sourceFiles(source)) {
  const folder = relative(source, file).split("/")[0] ?? "";
  const may = allowed[folder];
  if (may === undefined) {
    faults.push(
      `${relative(source, file)}: the folder ${folder}/ is not in the table of tools/check-layers.ts`,
    );
    continue;
  }
  if (file.endsWith(".test.ts")) continue;
  const text = readFileSync(file, "utf8");
  for (const [, specifier] of text.matchAll(/(?:from|import\()\s*"(\.[^"]+)"/g)) {
    const target = relative(source, resolve(dirname(file), specifier ?? ""));
    const to = target.split("/")[0] ?? "";
    if (target.startsWith("..") || to === folder) continue;
    if (!may.includes(to) && !may.includes(target.replace(/\.ts$/, ""))) {
      faults.push(
        `${relative(source, file)}: ${folder}/ may not import ${target} (allowed: ${may.join(", ") || "nothing"})`,
      );
    }
  }
}
for (const fault of faults) console.error(fault);
process.exitCode = faults.length > 0 ? 1 : 0;
