// Another backing file for a drive of a running machine. QEMU tells the guest of a new size only by `block_resize`, which
// it refuses for a read-only node; so such a node is given a writable stand-in of our own, resized, and then its real file,
// read-only again. The real file is never opened for writing. The guest runs on meanwhile: stopping it would restart the
// queues of the vsock backend, which loses what is on its way. Who reads the drive before the PATCH is answered reads zeros.
import { closeSync, openSync, unlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Drive } from "../schema/bodies.ts";
import { driveNode, fileNode, formatNode, resizeNode } from "./command-line.ts";
import type { QmpClient } from "./qmp-client.ts";

/** Calls `use` with the descriptor of an empty file that has no name. */
export async function withUnnamedFile<T>(use: (fd: number) => Promise<T>): Promise<T> {
  const path = join(tmpdir(), `firecracker-qemu-${process.pid}`);
  const fd = openSync(path, "wx+", 0o600);
  try {
    unlinkSync(path);
    return await use(fd);
  } finally {
    closeSync(fd);
  }
}

/** The drives of one machine and which of their file nodes is in use. */
export class DriveExchange {
  readonly #qmp: QmpClient;
  readonly #counts = new Map<string, number>();

  constructor(qmp: QmpClient) {
    this.#qmp = qmp;
  }

  /** Gives `drive` the file at `path`, shown to the guest with `size` bytes. */
  async exchange(drive: Drive, path: string, size: number): Promise<void> {
    const { drive_id: id } = drive;
    const isReadOnly = drive.is_read_only === true;
    const isUnsafe = drive.cache_type === "Unsafe";
    const count = this.#counts.get(id) ?? 0;
    const [was, is] = [`file-${id}-${count}`, `file-${id}-${count + 1}`];
    const reopen = (file: string, readOnly: boolean): Promise<unknown> =>
      this.#qmp.execute("blockdev-reopen", { options: [formatNode(id, file, readOnly, isUnsafe)] });
    const resize = (): Promise<unknown> =>
      this.#qmp.execute("block_resize", { "node-name": driveNode(id), size });
    await this.#qmp.execute("blockdev-add", fileNode(is, path, isReadOnly, isUnsafe));
    try {
      if (isReadOnly) {
        await reopen(resizeNode, false);
        await resize();
        await reopen(is, true);
      } else {
        await reopen(is, false);
        await resize();
      }
      this.#counts.set(id, count + 1);
      await this.#qmp.execute("blockdev-del", { "node-name": was });
    } catch (cause) {
      await reopen(was, isReadOnly);
      await this.#qmp.execute("blockdev-del", { "node-name": is });
      throw cause;
    }
  }
}
