/**
 * Before and after `npm pack`. In the repository the package is its sources, run as they are; packed it is JavaScript and
 * declarations in dist/, so `prepare` builds those and has package.json say so, and `restore` takes all of it back.
 */
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const here = join(import.meta.dirname, "..");
const root = join(here, "../..");
const manifest = join(here, "package.json");
const kept = join(here, ".package.json.kept");

function restore(): void {
  if (existsSync(kept)) renameSync(kept, manifest);
  rmSync(join(here, "dist"), { recursive: true, force: true });
  rmSync(join(here, "LICENSE"), { force: true });
}

function prepare(): void {
  // A pack that was killed has left its half.
  restore();
  // Comments are for the declarations; in the JavaScript they would only be weight.
  for (const part of [["--emitDeclarationOnly"], ["--declaration", "false", "--removeComments"]])
    execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", join(here, "tsconfig.build.json"), ...part], {
      stdio: "inherit",
    });
  const source: Record<string, unknown> = JSON.parse(readFileSync(manifest, "utf8"));
  const { scripts: _, ...packed } = source;
  packed["exports"] = {
    ".": { types: "./dist/index.d.ts", default: "./dist/index.js" },
    "./package.json": "./package.json",
  };
  copyFileSync(join(root, "LICENSE"), join(here, "LICENSE"));
  copyFileSync(manifest, kept);
  writeFileSync(manifest, `${JSON.stringify(packed, null, 2)}\n`);
}

const [what] = process.argv.slice(2);
if (what === "prepare") prepare();
else if (what === "restore") restore();
else {
  console.error("usage: pack.ts prepare|restore");
  process.exitCode = 2;
}
