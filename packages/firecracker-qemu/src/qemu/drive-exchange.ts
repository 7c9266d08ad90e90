// Another backing file for a drive of a running machine. QEMU tells the guest of a new size only by `block_resize`, which
// it refuses for a read-only node, and which would cut a file that ends within a sector. So the node is given a stand-in of our
// own, resized, and then its real file, whose size nothing here ever changes. The guest runs on meanwhile: who reads the drive
// before the PATCH is answered reads zeros.
import type { Backing } from "../machine/backing-file.ts";
import type { Drive } from "../schema/bodies.ts";
import { driveNode, fileNode, formatNode, resizeNode, wholeSectors } from "./command-line.ts";
import type { DeviceHost } from "./device-host.ts";
import type { QmpClient } from "./qmp-client.ts";

/** Descriptor sets of drives that come later: above those that QEMU was started with */
const firstLaterSet = 1000;

/** `set` has the descriptor that the node was opened by */
type FileInUse = { readonly node: string; readonly set: number; readonly bytes: number };

/** The drives of one machine and which of their file nodes is in use. */
export class DriveExchange {
  readonly #qmp: QmpClient;
  readonly #devices: DeviceHost;
  readonly #files: Map<string, FileInUse>;
  #nextSet = firstLaterSet;

  constructor(qmp: QmpClient, devices: DeviceHost, firstFiles: ReadonlyMap<string, FileInUse>) {
    this.#qmp = qmp;
    this.#devices = devices;
    this.#files = new Map(firstFiles);
  }

  /** Gives `drive` the file or block device at `path`: the guest is shown its whole sectors. */
  async exchange(drive: Drive, path: string, { bytes, isBlockDevice }: Backing): Promise<void> {
    const { drive_id: id } = drive;
    const isReadOnly = drive.is_read_only === true;
    const isUnsafe = drive.cache_type === "Unsafe";
    const set = this.#nextSet++;
    const was = this.#files.get(id);
    if (was === undefined) throw new Error(`no file is in use for the drive ${id}`);
    const is: FileInUse = { node: `file-${id}-${set}`, set, bytes };
    const reopen = (file: Omit<FileInUse, "set">, readOnly: boolean): Promise<unknown> =>
      this.#qmp.execute("blockdev-reopen", {
        options: [formatNode(id, file.node, readOnly, isUnsafe, file.bytes)],
      });
    await this.#devices.request("add-fd", { path, writable: !isReadOnly, set });
    try {
      await this.#qmp.execute(
        "blockdev-add",
        fileNode(is.node, set, { isReadOnly, isUnsafe, isBlockDevice }),
      );
    } catch (cause) {
      await this.#qmp.execute("remove-fd", { "fdset-id": set });
      throw cause;
    }
    try {
      await reopen({ node: resizeNode, bytes: 0 }, false);
      await this.#qmp.execute("block_resize", { "node-name": driveNode(id), size: wholeSectors(bytes) });
      await reopen(is, isReadOnly);
    } catch (cause) {
      await reopen(was, isReadOnly);
      await this.#letGo(is);
      throw cause;
    }
    this.#files.set(id, is);
    await this.#letGo(was);
  }

  /** Closes both of QEMU's descriptors: a block device that is held cannot be detached on the host. */
  async #letGo({ node, set }: FileInUse): Promise<void> {
    await this.#qmp.execute("blockdev-del", { "node-name": node });
    await this.#qmp.execute("remove-fd", { "fdset-id": set });
  }
}
