/** What a machine leaves on the host beside its process, as data, so that a journal can carry it over our own end. */
import { execFile } from "node:child_process";
import { readFile, rm, rmdir } from "node:fs/promises";
import { promisify } from "node:util";
import { FirecrackerLaunchError } from "./errors.ts";
import { removeJailAt } from "./jailer/remove-jail.ts";

/** A thing to be removed after the VMM's end. */
export type Leftover = {
  /** `directory`: with all in it; `mount`: detached; `cgroup`: an empty directory of cgroupfs; `netDevice`: a link, in `netns`; `jail`: a jail's directory, with what its record names */
  readonly kind: "file" | "directory" | "mount" | "cgroup" | "netDevice" | "jail";
  /** Absolute path on the host; the device's name for `netDevice` */
  readonly path: string;
  /** Path of a network namespace. @default ours */
  readonly netns?: string;
  /** Of a `jail`: one of the same name with another token is left alone */
  readonly token?: string;
};

const run = promisify(execFile);

async function remove({ kind, path, netns, token }: Leftover): Promise<void> {
  switch (kind) {
    case "file":
      return rm(path, { force: true });
    case "directory":
      return rm(path, { recursive: true, force: true });
    case "jail":
      return removeJailAt(path, token ?? "");
    case "cgroup":
      return rmdir(path).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code !== "ENOENT") throw cause;
      });
    case "mount": {
      // Spaces and the like are written as octal escapes in mountinfo.
      const shown = path.replace(/[ \t\n\\]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, "0")}`);
      const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n");
      for (const line of mounts) if (line.split(" ")[4] === shown) await run("umount", ["--lazy", path]);
      return;
    }
    case "netDevice": {
      const inside = netns === undefined ? [] : [`--net=${netns}`, "ip"];
      const [file, ...args] = [
        ...(inside.length > 0 ? ["nsenter", ...inside] : ["ip"]),
        "link",
        "delete",
        "dev",
        path,
      ];
      await run(file, args).catch((cause: Error) => {
        if (!/Cannot find device|No such file or directory/.test(cause.message)) throw cause;
      });
    }
  }
}

/** Removes them, last made first; goes on after a failure. What is gone already is no failure. @throws {FirecrackerLaunchError} FC_LAUNCH */
export async function removeLeftovers(leftovers: readonly Leftover[]): Promise<void> {
  const failures: unknown[] = [];
  for (const leftover of leftovers.toReversed()) {
    await remove(leftover).catch((cause) =>
      failures.push(new Error(`${leftover.kind} ${leftover.path}: ${String(cause)}`, { cause })),
    );
  }
  if (failures.length > 0)
    throw new FirecrackerLaunchError(
      `not removed: ${failures.map(String).join("; ")}`,
      new AggregateError(failures),
    );
}
