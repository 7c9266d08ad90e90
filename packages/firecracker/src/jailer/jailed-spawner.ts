/** The launcher's way into a jail: the jailer's command line, and every host path brought in and said as the jail has it. */
import { lstat, writeFile } from "node:fs/promises";
import { posix, resolve } from "node:path";
import { FirecrackerExitedError } from "../errors.ts";
import type { PathUse } from "../operations.ts";
import type { VmmSpawner } from "../spawner.ts";
import { Jail } from "./jail.ts";
import { type JailRecord, readJailRecord } from "./jail-record.ts";
import { FirecrackerJailerError } from "./jailer-error.ts";
import type { JailerOptions } from "./jailer-options.ts";
import { makeJail } from "./make-jail.ts";
import { awaitPidFile } from "./pid-file.ts";
import { planJail } from "./plan-jail.ts";

/** Short: with the default base directory and the longest id it is just within the 107 bytes of a socket's path. */
const apiSocket = "/api.sock";

/** Paths of a jail, as the launcher and {@link adoptMachine} ask for them. */
export type JailPaths = Pick<VmmSpawner, "toVmmPath" | "toHostPath"> & {
  /** For files to be staged by hand: under a chosen name, by a chosen method. Only once it is launched. */
  readonly jail: Jail;
};

/** A spawner for `launchMachine`, with its jail. */
export type JailedSpawner = VmmSpawner & JailPaths;

const exists = (path: string): Promise<boolean> =>
  lstat(path).then(
    () => true,
    () => false,
  );

/** What the VMM may do with a path, and how it is staged for that. */
async function translate(jail: Jail, hostPath: string, use: PathUse): Promise<string> {
  const path = resolve(hostPath);
  const { root } = jail.record;
  if (path.startsWith(`${root}/`)) {
    const jailPath = path.slice(root.length);
    // Something we put there ourselves: a config file, a FIFO. What was staged has the owner it should have.
    const isStaged = jail.record.stagedFiles.some((file) => file.jailPath === jailPath);
    if (use !== "bind" && !isStaged && (await exists(path))) await jail.giveToJail(jailPath);
    return jailPath;
  }
  switch (use) {
    case "read":
      return await jail.stage(path, { access: "ro" });
    case "write":
    case "connect":
      return await jail.stage(path, { access: "rw" });
    case "output": {
      // Made here, so that the file the VMM writes to is the one that was asked for.
      if (!(await exists(path))) await writeFile(path, "", { flag: "wx", mode: 0o600 });
      return await jail.stage(path, { access: "rw" });
    }
    case "bind":
      throw new FirecrackerJailerError(
        "uds_path",
        `${path} is outside the jail, where the VMM cannot make a socket; take a path from toHostPath("/NAME")`,
      );
  }
}

function pathsOf(jail: Jail): JailPaths {
  return {
    jail,
    toVmmPath: (hostPath, use) => translate(jail, hostPath, use),
    // The VMM's working directory is the jail's `/`.
    toHostPath: (vmmPath) => `${jail.record.root}${posix.resolve("/", vmmPath)}`,
  };
}

/**
 * A jail for one VMM, to be given to `launchMachine` as its `spawner`. Nothing is made before the launch; the jail goes
 * when the VMM has ended. Files named in API bodies are brought in by themselves; a vsock's `uds_path` must be taken
 * from `toHostPath("/NAME")`, and the listeners beside it be given to the jail's user by `jail.giveToJail`. `stageFirst`
 * is called when the jail is made, before the jailer runs: for files that the VMM's program itself needs.
 * @throws {FirecrackerJailerError} FC_JAILER naming the option at fault
 */
export async function jailedSpawner(
  options: JailerOptions,
  stageFirst?: (jail: Jail) => Promise<void>,
): Promise<JailedSpawner> {
  const plan = await planJail(options);
  const { record } = plan;
  const jail = new Jail(record);
  const isElsewhere = options.daemonize === true || options.newPidNs === true;
  return {
    ...pathsOf(jail),
    id: record.id,
    binary: options.execFile,
    apiSocket: `${record.root}${apiSocket}`,
    rootDirectory: record.root,
    command: (vmmArguments) => ({
      file: plan.jailer,
      args: plan.argv(["--api-sock", apiSocket, ...vmmArguments]),
      env: {},
    }),
    leftovers: () => [{ kind: "jail", path: record.directory, token: record.token }],
    async prepare(signal) {
      signal?.throwIfAborted();
      await makeJail(record);
      await stageFirst?.(jail);
    },
    ...(isElsewhere && {
      findVmm: async ({ exited }, signal) => {
        const failed = exited.then((status) => {
          if (status.exitCode === 0) return new Promise<never>(() => {});
          throw new FirecrackerExitedError(status.exitCode, status.signal, "");
        });
        const found = await Promise.race([awaitPidFile(record, signal), failed]);
        if (found === "ended") throw new FirecrackerExitedError(null, null, "");
        return found;
      },
    }),
  };
}

/**
 * The paths of a jail that was made before our own restart, for {@link adoptMachine}: `rootDirectory` is its record's.
 * @throws {FirecrackerJailerError} FC_JAILER when there is no jail
 */
export async function findJail(rootDirectory: string): Promise<JailPaths> {
  const record: JailRecord | undefined = await readJailRecord(posix.dirname(rootDirectory));
  if (record === undefined || record.root !== rootDirectory)
    throw new FirecrackerJailerError("rootDirectory", `${rootDirectory} is not the root directory of a jail`);
  return pathsOf(new Jail(record));
}
