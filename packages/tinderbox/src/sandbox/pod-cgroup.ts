/** A pod's cgroup directories, one in each mounted hierarchy (v1, v2 or both): made, killed in, removed. */
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { errnoOf, TinderboxError } from "../base/errors.ts";

type Hierarchy = { readonly mountpoint: string; readonly options: readonly string[] };

async function hierarchies(): Promise<readonly Hierarchy[]> {
  const found: Hierarchy[] = [];
  for (const line of (await readFile("/proc/self/mountinfo", "utf8")).split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    const [fsType, , options = ""] = right.split(" ");
    const mountpoint = left.split(" ")[4];
    if ((fsType === "cgroup" || fsType === "cgroup2") && mountpoint)
      found.push({ mountpoint, options: options.split(",") });
  }
  return found;
}

function checkPath(cgroupPath: string): void {
  const parts = cgroupPath.split("/");
  if (parts.length < 2 || parts.some((part) => part === "" || part === "." || part === "..")) {
    throw new TinderboxError(
      "INVALID",
      `cgroupPath ${JSON.stringify(cgroupPath)}: a relative path of at least two plain components is allowed`,
    );
  }
}

async function makeIn({ mountpoint, options }: Hierarchy, cgroupPath: string): Promise<string> {
  const directory = join(mountpoint, cgroupPath);
  await mkdir(directory, { recursive: true });
  if (!options.includes("cpuset")) return directory;
  // A new v1 cpuset has no CPU and no memory node, and takes no process until it is given some.
  let at = mountpoint;
  for (const part of relative(mountpoint, directory).split("/")) {
    const parent = at;
    at = join(at, part);
    for (const file of ["cpuset.cpus", "cpuset.mems"]) {
      if ((await readFile(join(at, file), "utf8")).trim() === "") {
        await writeFile(join(at, file), (await readFile(join(parent, file), "utf8")).trim());
      }
    }
  }
  return directory;
}

/** Makes the pod's directory in every hierarchy; the paths. */
export async function makePodCgroup(cgroupPath: string): Promise<readonly string[]> {
  checkPath(cgroupPath);
  // A dozen of them with v1. All have ended before a failure is told: what is made later than its undoing would stay.
  const all = await Promise.allSettled(
    (await hierarchies()).map((hierarchy) => makeIn(hierarchy, cgroupPath)),
  );
  return all.map((one) => {
    if (one.status === "rejected") throw one.reason;
    return one.value;
  });
}

async function treeBottomUp(directory: string): Promise<string[]> {
  const below: string[] = [];
  const entries = await readdir(directory, { withFileTypes: true }).catch((cause) => {
    if (errnoOf(cause) === "ENOENT") return [];
    throw cause;
  });
  if (entries.length === 0) return [];
  for (const entry of entries)
    if (entry.isDirectory()) below.push(...(await treeBottomUp(join(directory, entry.name))));
  return [...below, directory];
}

/** Kills every process in the pod's cgroups, then removes the directories. The parents stay. Fine when there is nothing. */
export async function removePodCgroup(cgroupPath: string): Promise<void> {
  checkPath(cgroupPath);
  const roots = (await hierarchies()).map(({ mountpoint }) => join(mountpoint, cgroupPath));
  // A dying process leaves its cgroup without an event in v1, so this looks again, up to about 10 s.
  for (let attempt = 0; ; attempt++) {
    const pids = new Set<number>();
    const directories = (await Promise.all(roots.map(treeBottomUp))).flat();
    for (const directory of directories) {
      const listed = await readFile(join(directory, "cgroup.procs"), "utf8").catch(() => "");
      for (const pid of listed.split("\n")) if (pid !== "" && pid !== "0") pids.add(Number(pid));
      // A frozen process does not die: thawing is part of killing.
      if (attempt === 0)
        await writeFile(join(directory, "freezer.state"), "THAWED", { flag: "r+" }).catch(() => {});
    }
    for (const pid of pids) {
      if (pid === process.pid)
        throw new TinderboxError("CLEANUP", `the daemon itself is in the cgroup ${cgroupPath}`);
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // gone between the listing and here
      }
    }
    if (pids.size === 0) {
      const failures: unknown[] = [];
      for (const directory of directories) {
        await rmdir(directory).catch((cause) => {
          if (errnoOf(cause) !== "ENOENT") failures.push(cause);
        });
      }
      if (failures.length === 0) {
        // Our own parent of all pods goes with the last of them; rmdir refuses while there is another.
        if (dirname(cgroupPath) === "tinderbox")
          await Promise.all(roots.map((root) => rmdir(dirname(root)).catch(() => {})));
        return;
      }
    }
    if (attempt >= 500) {
      throw new TinderboxError(
        "CLEANUP",
        `cgroup ${cgroupPath}: still holds processes ${[...pids].join(", ")} under ${dirname(roots[0] ?? "")}`,
      );
    }
    await delay(attempt < 20 ? 2 : 20);
  }
}
