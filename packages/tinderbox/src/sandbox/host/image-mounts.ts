/**
 * Images mounted on the host, each once, for all containers of all pods. Who uses one is written in each sandbox's
 * directory (rootfs.json) before the mount is made, so the count is right after any crash.
 */
import { mkdir, readdir, readFile, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../../base/errors.ts";
import { nativeProgram } from "../../base/paths.ts";
import { writeFileAtomic } from "../../base/write-file.ts";
import type { Image } from "../../image/contract.ts";
import { run } from "../../native/run.ts";

type Users = Record<string, string>;

async function readUsers(sandbox: string): Promise<Users> {
  try {
    const value: unknown = JSON.parse(await readFile(join(sandbox, "rootfs.json"), "utf8"));
    return typeof value === "object" && value !== null
      ? Object.fromEntries(Object.entries(value).map(([key, id]) => [key, String(id)]))
      : {};
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return {};
    throw cause;
  }
}

async function isMounted(target: string): Promise<boolean> {
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  return mounts.split("\n").some((line) => line.split(" ")[4] === target);
}

/** The image mounts below one state directory. */
export class ImageMounts {
  readonly #stateDir: string;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(stateDir: string) {
    this.#stateDir = stateDir;
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(act);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  #target(imageId: string): string {
    const name = imageId.replace(/^sha256:/, "");
    if (!/^[0-9a-zA-Z]{1,128}$/.test(name))
      throw new TinderboxError("INVALID", `image id ${JSON.stringify(imageId)}: hex digits are allowed`);
    return join(this.#stateDir, "images", name);
  }

  /** Where `image` is mounted, for `user` in the sandbox in directory `sandbox`: a container's id, or id/NAME for a volume. */
  acquire(sandbox: string, user: string, image: Image, signal: AbortSignal): Promise<string> {
    return this.#inTurn(async () => {
      const target = this.#target(image.id);
      await writeFileAtomic(
        join(sandbox, "rootfs.json"),
        JSON.stringify({ ...(await readUsers(sandbox)), [user]: image.id }),
      );
      if (!(await isMounted(target))) {
        // Images hold set-uid programs: no user of the host may get to them (CVE-2021-41103).
        await mkdir(target, { recursive: true, mode: 0o700 });
        await run(nativeProgram, ["mount-image", image.blockPath, target, image.fsType], { signal });
      }
      return target;
    });
  }

  /** One container's use ends, with that of its volumes, or with no id those of all of the sandbox. */
  release(sandbox: string, containerId?: string): Promise<void> {
    return this.#inTurn(async () => {
      const users = await readUsers(sandbox);
      const isReleased = ([user]: readonly [string, string]): boolean =>
        containerId === undefined || user === containerId || user.startsWith(`${containerId}/`);
      const entries = Object.entries(users);
      const released = entries.filter(isReleased).map(([, id]) => id);
      if (released.length === 0) return;
      const left = Object.fromEntries(entries.filter((entry) => !isReleased(entry)));
      const used = new Set(Object.values(left));
      const sandboxes = join(this.#stateDir, "sandboxes");
      for (const name of await readdir(sandboxes)) {
        const other = join(sandboxes, name);
        if (other !== sandbox) for (const id of Object.values(await readUsers(other))) used.add(id);
      }
      for (const id of new Set(released)) {
        if (used.has(id)) continue;
        const target = this.#target(id);
        if (await isMounted(target)) await run(nativeProgram, ["umount", target]);
        await rmdir(target).catch((cause) => {
          if (errnoOf(cause) !== "ENOENT") throw cause;
        });
      }
      // Last: until the mounts are gone, somebody must know of them.
      await writeFileAtomic(join(sandbox, "rootfs.json"), JSON.stringify(left));
    });
  }
}
