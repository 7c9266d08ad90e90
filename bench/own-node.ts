/**
 * The benchmark runs on a copy of Node. Pages of a file that two processes map count half in the proportional size of
 * each: the daemon must not look smaller because what measures it is the same program.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

const copy = join(import.meta.dirname, "../.cache/bench/node");

/** Whether this process is the copy. */
export const isOwnNode: boolean = process.execPath === copy;

/** Runs this program again on the copy; its exit status. */
export async function runOnOwnNode(): Promise<number> {
  const size = statSync(copy, { throwIfNoEntry: false })?.size;
  mkdirSync(dirname(copy), { recursive: true });
  if (size !== statSync(process.execPath).size) copyFileSync(process.execPath, copy);
  const flags = ["--disable-warning=ExperimentalWarning", ...process.execArgv];
  const child = spawn(copy, [...flags, ...process.argv.slice(1)], { stdio: "inherit" });
  const [status] = await once(child, "exit");
  return typeof status === "number" ? status : 1;
}
