/**
 * Where a pod's VMM has its files, and what it runs as: beside the sandbox's other files as the daemon's user, or, a
 * Firecracker with its jailer, in a jail of its own, as a user of its own. Everything else of a microVM asks here.
 */
import { chmod, link, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import {
  type AdoptOptions,
  FirecrackerJailerError,
  findJail,
  type Jail,
  jailedSpawner,
  type LaunchOptions,
  removeJail,
} from "@tinderbox/firecracker";
import { errnoOf } from "../../base/errors.ts";
import { nativeProgram } from "../../base/paths.ts";
import { run } from "../../native/run.ts";
import type { SandboxRecord } from "../contract.ts";
import type { BlockDevice } from "./block-device.ts";
import type { JailUsers } from "./jail-users.ts";

/** How VMMs are jailed. */
export type Jailing = {
  /** Path of Firecracker's `jailer`, of the VMM's release */
  readonly jailer: string;
  readonly users: JailUsers;
};

/** One VMM's place; paths are the host's. */
export type VmmPlace = {
  /** The instance's id */
  readonly id: string;
  readonly apiSocket: string;
  /** The VMM's own vsock socket, for calls into the guest */
  readonly vsockPath: string;
  /** Lets the VMM reach what listens at `hostVsock(record)_PORT`. */
  admit(port: number): Promise<void>;
  /** Where the VMM is to find a block device as drive `index`: a path for the API's bodies, until `removeDevice`. */
  admitDevice(index: number, device: BlockDevice, isWritable: boolean): Promise<string>;
  /** The drive has another file: the VMM finds the device no more. One that was never there is fine. */
  removeDevice(index: number): Promise<void>;
  /** Its paths in the words of the VMM */
  readonly spawner?: NonNullable<AdoptOptions["spawner"]>;
};

/** A place where nothing runs yet. */
export type NewVmmPlace = VmmPlace & { readonly launch: LaunchOptions };

/** What listens for the guest's calls to a port of the host is this path with `_PORT`; never inside a jail, whose VMM could change it. */
export const hostVsock = (record: SandboxRecord): string => join(record.directory, "vsock.sock");

/** Instance ids know letters, digits and `-`, 64 at most. */
const instanceId = (record: SandboxRecord): string => record.id.replace(/[^0-9A-Za-z-]/g, "-").slice(0, 64);
/** Short, because sockets are below a directory of this name. */
const jailId = (record: SandboxRecord): string => instanceId(record).slice(0, 12);

function jailedPlace(record: SandboxRecord, jail: Jail): VmmPlace {
  const { root } = jail.record;
  const vsockPath = join(root, "v");
  const nodeOf = (index: number): string => join(record.directory, `device-${index}`);
  const jailPathOf = (index: number): string => `/files/device-${index}`;
  const removeDevice = async (index: number): Promise<void> => {
    await jail.removeNode(jailPathOf(index));
    await rm(nodeOf(index), { force: true });
  };
  return {
    removeDevice,
    async admitDevice(index, device, isWritable) {
      await removeDevice(index);
      // A jail's files are brought in by path, so it gets one that nobody else can change.
      const node = nodeOf(index);
      await run("mknod", ["-m", "0600", "--", node, "b", ...device.number.split(":")]);
      const access = isWritable ? "rw" : "ro";
      return jail.hostPath(await jail.stage(node, { access, as: jailPathOf(index) }));
    },
    id: jailId(record),
    apiSocket: join(root, "api.sock"),
    vsockPath,
    async admit(port) {
      const ours = `${hostVsock(record)}_${port}`;
      // Its directory lets nobody else in. A second name is made without following what a hostile VMM put in the way.
      await chmod(ours, 0o666);
      await rm(`${vsockPath}_${port}`, { force: true });
      await link(ours, `${vsockPath}_${port}`);
    },
  };
}

function directPlace(record: SandboxRecord): VmmPlace {
  return {
    id: instanceId(record),
    apiSocket: join(record.directory, "api.sock"),
    vsockPath: hostVsock(record),
    admit: async () => {},
    admitDevice: async (_index, device) => device.path,
    removeDevice: async () => {},
  };
}

/** The place of a VMM to be launched as `vmm`, in these cgroups. */
export async function newVmmPlace(
  record: SandboxRecord,
  vmm: string,
  cgroups: readonly string[],
  jailing: Jailing | undefined,
): Promise<NewVmmPlace> {
  const { network } = record.spec;
  const netns = network.kind === "pod" ? network.netnsPath : undefined;
  const join = cgroups.flatMap((path) => ["--cgroup", path]);
  if (jailing === undefined) {
    const place = directPlace(record);
    const { apiSocket, id } = place;
    const enter = [...(netns === undefined ? [] : ["--netns", netns]), ...join];
    return {
      ...place,
      launch: { binary: vmm, apiSocket, id, spawnPrefix: [nativeProgram, "launch", ...enter, "--"] },
    };
  }
  const user = jailing.users.take(record.id);
  const spawner = await jailedSpawner({
    jailerBinary: jailing.jailer,
    execFile: vmm,
    id: jailId(record),
    uid: user,
    gid: user,
    chrootBaseDir: record.directory,
    ...(netns !== undefined && { netns }),
  });
  return {
    ...jailedPlace(record, spawner.jail),
    launch: {
      spawner: {
        ...spawner,
        command(args) {
          const { file, args: jailerArgs, ...rest } = spawner.command(args);
          return { ...rest, file: nativeProgram, args: ["launch", ...join, "--", file, ...jailerArgs] };
        },
      },
    },
  };
}

/** The sandbox's jail, by what is on the disk alone; undefined when it has none. */
async function jailOf(
  record: SandboxRecord,
): Promise<({ readonly jail: Jail } & NonNullable<AdoptOptions["spawner"]>) | undefined> {
  const entries = await readdir(record.directory, { withFileTypes: true }).catch((cause) => {
    if (errnoOf(cause) === "ENOENT") return [];
    throw cause;
  });
  for (const entry of entries) {
    if (!entry.isDirectory()) continue;
    const root = join(record.directory, entry.name, jailId(record), "root");
    try {
      return await findJail(root);
    } catch (cause) {
      if (!(cause instanceof FirecrackerJailerError)) throw cause;
    }
  }
  return undefined;
}

/** The place of a VMM that runs already; keeps its user from being given to another. */
export async function foundVmmPlace(record: SandboxRecord, users: JailUsers): Promise<VmmPlace> {
  const found = await jailOf(record);
  if (found === undefined) return directPlace(record);
  users.keep(record.id, found.jail.record.uid);
  return { ...jailedPlace(record, found.jail), spawner: found };
}

/** Removes the jail with its mounts and whatever runs in it, if there is one; its user is free again. */
export async function removeVmmPlace(record: SandboxRecord, users: JailUsers): Promise<void> {
  const found = await jailOf(record);
  if (found) await removeJail(found.jail.record);
  users.giveBack(record.id);
}
