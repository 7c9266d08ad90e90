/** The mounts of this process's own mount namespace. */
import { readFile } from "node:fs/promises";

/** Mount points at or below `directory`, the latest first, so that they can be unmounted in this order. */
export async function mountedBelow(directory: string): Promise<string[]> {
  const found: string[] = [];
  for (const line of (await readFile("/proc/self/mountinfo", "utf8")).split("\n")) {
    const point = (line.split(" ")[4] ?? "").replace(/\\([0-7]{3})/g, (_whole, octal: string) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    if (point === directory || point.startsWith(`${directory}/`)) found.push(point);
  }
  return found.reverse();
}
