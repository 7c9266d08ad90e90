/** Which processes there are, and which a process has started, by /proc. */
import { readdirSync, readFileSync } from "node:fs";

/** `started` is its start in ticks of the host's clock: with the pid, it is nobody else. */
export type Process = { readonly pid: number; readonly started: string; readonly command: string };

function read(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    // The process has ended meanwhile.
    return "";
  }
}

/** The fields of a process's state line behind its name: state, parent, ... */
function statOf(pid: string): readonly string[] {
  return read(`/proc/${pid}/stat`).split(") ").at(-1)?.split(" ") ?? [];
}

/** The processes that `pid` has started, and that those have. */
export function descendantsOf(pid: number): readonly Process[] {
  const children = readdirSync("/proc").flatMap((name): Process[] => {
    const stat = statOf(name);
    if (stat[1] !== `${pid}`) return [];
    const command = read(`/proc/${name}/cmdline`).replaceAll("\0", " ");
    return [{ pid: Number(name), started: stat[19] ?? "", command }];
  });
  return children.flatMap((child) => [child, ...descendantsOf(child.pid)]);
}

/** The processes whose command line, with spaces between its words, fits. */
export function processesLike(pattern: RegExp): readonly Process[] {
  return readdirSync("/proc").flatMap((name): Process[] => {
    if (!/^\d+$/.test(name)) return [];
    const command = read(`/proc/${name}/cmdline`).replaceAll("\0", " ");
    return pattern.test(command) ? [{ pid: Number(name), started: statOf(name)[19] ?? "", command }] : [];
  });
}

/** Whether no process of that number runs. */
export function hasEnded(pid: string): boolean {
  const [state] = statOf(pid);
  return state === undefined || state === "" || state === "Z" || state === "X";
}

/** Whether it runs. A zombie does not: somebody has only not looked yet. */
export function isAlive({ pid, started }: Process): boolean {
  const stat = statOf(`${pid}`);
  return stat[19] === started && stat[0] !== "Z";
}
