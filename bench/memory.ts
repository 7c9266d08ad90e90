/** Proportional set sizes of processes, by name. */
import { readdirSync, readFileSync } from "node:fs";

const mebibyte = 1 << 20;

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // The process has ended, or is the kernel's.
    return "";
  }
}

/** Every process's id. */
export function processIds(): Set<number> {
  return new Set(
    readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map(Number),
  );
}

/** MiB; 0 for a process that has ended. Not the resident size: what is shared counts once among those that share it. */
export function pssOf(pid: number): number {
  const match = /^Pss:\s+(\d+) kB$/m.exec(read(`/proc/${pid}/smaps_rollup`));
  return (Number(match?.[1] ?? 0) * 1024) / mebibyte;
}

/** MiB of a process's mappings whose name (a path, `[heap]`, or nothing) fits; shares as `pssOf` has them. */
export function mappedMemory(pid: number, fits: (name: string) => boolean): number {
  let kib = 0;
  let isWanted = false;
  for (const line of read(`/proc/${pid}/smaps`).split("\n")) {
    const mapping = /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)$/.exec(line);
    if (mapping) isWanted = fits(mapping[1] ?? "");
    else if (isWanted) kib += Number(/^Pss:\s+(\d+) kB$/.exec(line)?.[1] ?? 0);
  }
  return (kib * 1024) / mebibyte;
}

/** MiB for each name of a program, of the processes that are not in `before`. Threads of the kernel are left out. */
export function newMemory(before: ReadonlySet<number>): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  for (const pid of processIds()) {
    const pss = before.has(pid) ? 0 : pssOf(pid);
    if (pss === 0) continue;
    const [program = ""] = read(`/proc/${pid}/cmdline`).split("\0");
    const script = /\/firecracker-qemu\//.test(read(`/proc/${pid}/cmdline`)) ? "firecracker-qemu" : undefined;
    const name = script ?? program.split("/").at(-1) ?? "";
    found.set(name, (found.get(name) ?? 0) + pss);
  }
  return found;
}
