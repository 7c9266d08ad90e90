// Another backing file for a drive of a running machine. QEMU tells the guest of a new size only by `block_resize`, which
// it refuses for a read-only node; so such a node is given a writable stand-in of our own, resized, and then its real file,
// read-only again. The real file is never opened for writing. The guest runs on meanwhile. Who reads the drive before the
// PATCH is answered reads zeros.
import type { Drive } from "../schema/bodies.ts";
import { driveNode, fileNode, firstFileNode, formatNode, resizeNode } from "./command-line.ts";
import type { DeviceHost } from "./device-host.ts";
import type { QmpClient } from "./qmp-client.ts";

/** Descriptor sets of drives that come later: above those that QEMU was started with */
const firstLaterSet = 1000;

/** The drives of one machine and which of their file nodes is in use. */
export class DriveExchange {
  readonly #qmp: QmpClient;
  readonly #devices: DeviceHost;
  readonly #nodes = new Map<string, string>();
  #nextSet = firstLaterSet;

  constructor(qmp: QmpClient, devices: DeviceHost) {
    this.#qmp = qmp;
    this.#devices = devices;
  }

  /** Gives `drive` the file at `path`, shown to the guest with `size` bytes. */
  async exchange(drive: Drive, path: string, size: number): Promise<void> {
    const { drive_id: id } = drive;
    const isReadOnly = drive.is_read_only === true;
    const isUnsafe = drive.cache_type === "Unsafe";
    const set = this.#nextSet++;
    const was = this.#nodes.get(id) ?? firstFileNode(drive);
    const is = `file-${id}-${set}`;
    const reopen = (file: string, readOnly: boolean): Promise<unknown> =>
      this.#qmp.execute("blockdev-reopen", { options: [formatNode(id, file, readOnly, isUnsafe)] });
    const resize = (): Promise<unknown> =>
      this.#qmp.execute("block_resize", { "node-name": driveNode(id), size });
    await this.#devices.request("add-fd", { path, writable: !isReadOnly, set });
    await this.#qmp.execute("blockdev-add", fileNode(is, set, isReadOnly, isUnsafe));
    try {
      if (isReadOnly) {
        await reopen(resizeNode, false);
        await resize();
        await reopen(is, true);
      } else {
        await reopen(is, false);
        await resize();
      }
      this.#nodes.set(id, is);
      await this.#qmp.execute("blockdev-del", { "node-name": was });
    } catch (cause) {
      await reopen(was, isReadOnly);
      await this.#qmp.execute("blockdev-del", { "node-name": is });
      throw cause;
    }
  }
}
