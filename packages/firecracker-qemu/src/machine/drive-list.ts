// The drives before the start, in the guest's order: the root device is first.
import { existsSync } from "node:fs";
import { Fault, systemReason } from "../fault.ts";
import type { Drive } from "../schema/bodies.ts";
import { type KeptFiles, openDrive } from "./backing-file.ts";
import { unsupported } from "./unsupported.ts";

const refuse = (why: string, cause?: unknown): Fault =>
  new Fault(`Drive config error: Unable to create the virtio block device: ${why}`, { cause });

/** Opens the file behind a drive. @throws {Fault} */
function openBackend(drive: Drive): number {
  const { path_on_host: path, socket } = drive;
  if (path !== undefined && socket === undefined) {
    try {
      return openDrive(path, drive.is_read_only === true);
    } catch (cause) {
      const why = `Virtio backend error: Error manipulating the backing file: ${systemReason(cause)} ${path}`;
      throw refuse(why, cause);
    }
  }
  const { is_read_only, rate_limiter, io_engine } = drive;
  const isVhostUser = [path, is_read_only, rate_limiter, io_engine].every((one) => one === undefined);
  if (socket === undefined || !isVhostUser)
    throw refuse(
      "Invalid block config: it takes `path_on_host`, or `socket` without `is_read_only`, `rate_limiter` and `io_engine`.",
    );
  if (!existsSync(socket))
    throw refuse(`Vhost-user backend error: No such file or directory (os error 2) ${socket}`);
  throw unsupported("socket");
}

/** Drives by id; putting one with a known id takes the other's place. */
export class DriveList {
  readonly #drives: Drive[] = [];
  readonly #files: KeptFiles;

  /** The drives' files are kept in `files`, as `drive ID`. */
  constructor(files: KeptFiles) {
    this.#files = files;
  }

  get all(): readonly Drive[] {
    return this.#drives;
  }

  get hasRoot(): boolean {
    return this.#drives[0]?.is_root_device === true;
  }

  find(id: string): Drive | undefined {
    return this.#drives.find((one) => one.drive_id === id);
  }

  /** @throws {Fault} and then nothing has changed */
  put(drive: Drive): void {
    const at = this.#drives.findIndex((one) => one.drive_id === drive.drive_id);
    if (drive.is_root_device && this.hasRoot && at !== 0)
      throw new Fault("Drive config error: A root block device already exists!");
    this.#files.keep(`drive ${drive.drive_id}`, openBackend(drive));
    if (at < 0 && drive.is_root_device) this.#drives.unshift(drive);
    else if (at < 0) this.#drives.push(drive);
    else {
      const first = this.#drives[0];
      this.#drives[at] = drive;
      if (at > 0 && drive.is_root_device && first !== undefined) {
        this.#drives[0] = drive;
        this.#drives[at] = first;
      }
    }
  }

  /** Changes a drive that is there. */
  replace(drive: Drive): void {
    const at = this.#drives.findIndex((one) => one.drive_id === drive.drive_id);
    if (at >= 0) this.#drives[at] = drive;
  }
}
