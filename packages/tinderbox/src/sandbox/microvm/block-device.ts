/**
 * A block device of the host that is to be a microVM's drive. What a request names may be anything and may change while it is
 * looked at: it is opened once, without touching the device, checked by that descriptor, and given to the VMM by it.
 */
import { constants } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { deviceNumber } from "../../base/device-number.ts";
import { errnoOf, TinderboxError } from "../../base/errors.ts";

/** open(2)'s O_PATH, which Node does not name */
const O_PATH = 0o10000000;

export type BlockDevice = {
  /** Field and path of the request, for errors */
  readonly name: string;
  /** `MAJOR:MINOR`, which names the device whatever its path */
  readonly number: string;
  readonly sizeBytes: number;
  /** Permission bits and owner of the host's node */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Leads every process of ours to that very node until it is closed */
  readonly path: string;
  /** @throws WRONG_STATE when the host uses the device itself: it is mounted, or part of a volume group or RAID */
  checkUnused(): Promise<void>;
  close(): Promise<void>;
};

async function sizeOf(number: string, refuse: (why: string) => TinderboxError): Promise<number> {
  try {
    return Number(await readFile(`/sys/dev/block/${number}/size`, "utf8")) * 512;
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") throw refuse(`no driver has a block device ${number}`);
    throw cause;
  }
}

/** Opens `hostPath`, links followed; `field` is for the errors. @throws INVALID for anything but a block device with something on it */
export async function openBlockDevice(field: string, hostPath: string): Promise<BlockDevice> {
  const name = `${field} ${JSON.stringify(hostPath)}`;
  const refuse = (why: string): TinderboxError => new TinderboxError("INVALID", `${name}: ${why}`);
  const handle = await open(hostPath, O_PATH).catch((cause) => {
    throw refuse(errnoOf(cause) ?? TinderboxError.from(cause).message);
  });
  try {
    const stat = await handle.stat({ bigint: true });
    if (stat.isCharacterDevice())
      throw refuse("a character device is the host kernel's; only block devices can be in a microVM");
    if (!stat.isBlockDevice()) throw refuse("not a block device");
    const { major, minor } = deviceNumber(stat.rdev);
    const number = `${major}:${minor}`;
    const sizeBytes = await sizeOf(number, refuse);
    if (sizeBytes === 0) throw refuse("the device is empty: it has no medium, or nothing is attached to it");
    const path = `/proc/${process.pid}/fd/${handle.fd}`;
    return {
      name,
      number,
      sizeBytes,
      mode: Number(stat.mode & 0o777n),
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      path,
      async checkUnused() {
        try {
          // On a block device, the kernel refuses O_EXCL to all but the first who asks for it.
          const flags = constants.O_RDONLY | constants.O_EXCL | constants.O_NONBLOCK;
          await (await open(path, flags)).close();
        } catch (cause) {
          if (errnoOf(cause) !== "EBUSY") throw refuse(errnoOf(cause) ?? TinderboxError.from(cause).message);
          throw new TinderboxError(
            "WRONG_STATE",
            `${name}: the host uses block device ${number} itself (it is mounted, or part of a volume group or RAID); a second kernel that writes to it would destroy what is on it`,
          );
        }
      },
      close: () => handle.close(),
    };
  } catch (cause) {
    await handle.close();
    throw cause;
  }
}
