/**
 * Which placeholder drive of a microVM holds which image or block device, and for which containers. Written down before a
 * drive is changed, so a restarted daemon knows what the guest may be using.
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../../base/errors.ts";
import { writeFileAtomic } from "../../base/write-file.ts";
import type { Image } from "../../image/contract.ts";
import type { BlockDevice } from "./block-device.ts";

/** How many placeholders there are: the VMM enforces which of them a guest can write to. */
export type DriveCounts = { readonly readOnly: number; readonly writable: number };

export type DriveSlot = {
  readonly index: number;
  /** An image's id, or a device's number with the access to it */
  readonly holds: string;
  readonly sizeBytes: number;
  readonly containers: readonly string[];
};

export type DriveActions = {
  /** Gives the drive another backing file. */
  setBacking(index: number, path: string): Promise<void>;
  /** Gives the drive a block device, until its backing file is another. */
  setDevice(index: number, device: BlockDevice, isWritable: boolean): Promise<void>;
  /** The drive has another file than a block device: the VMM is to have no way to the device. */
  removeDevice(index: number): Promise<void>;
  /** Makes the guest let go of the drive. */
  releaseInGuest(index: number): Promise<void>;
};

type Wanted = {
  /** For errors */
  readonly name: string;
  readonly holds: string;
  readonly isWritable: boolean;
  readonly sizeBytes: number;
  /** Puts it into the drive. */
  readonly attach: (index: number) => Promise<void>;
};

/** The VMM's name of a drive: what it has been since the first version, whose machines may still run. */
export const driveId = (index: number): string => (index === 0 ? "scratch" : `image_${index}`);

/** A slot as the first version wrote it: images only. */
type FirstSlot = { readonly index: number; readonly imageId: string; readonly containers: readonly string[] };

/** The drives of one microVM: index 0 is the scratch drive, then come the read-only placeholders, then the writable ones. */
export class DriveSlots {
  readonly #path: string;
  readonly #placeholder: string;
  readonly #counts: DriveCounts;
  readonly #actions: DriveActions;
  #slots: readonly DriveSlot[];
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(
    directory: string,
    counts: DriveCounts,
    actions: DriveActions,
    slots: readonly DriveSlot[],
  ) {
    this.#path = join(directory, "drives.json");
    this.#placeholder = join(directory, "placeholder");
    this.#counts = counts;
    this.#actions = actions;
    this.#slots = slots;
  }

  static async load(directory: string, counts: DriveCounts, actions: DriveActions): Promise<DriveSlots> {
    let slots: DriveSlot[] = [];
    try {
      const value: unknown = JSON.parse(await readFile(join(directory, "drives.json"), "utf8"));
      // Our own file, written whole or not at all.
      if (Array.isArray(value))
        slots = (value as (DriveSlot | FirstSlot)[]).map((slot) =>
          "imageId" in slot ? { ...slot, holds: slot.imageId, sizeBytes: 0 } : slot,
        );
    } catch (cause) {
      if (errnoOf(cause) !== "ENOENT") throw cause;
    }
    return new DriveSlots(directory, counts, actions, slots);
  }

  /** Containers that have a drive. */
  get containers(): readonly string[] {
    return this.#slots.flatMap((slot) => slot.containers);
  }

  /** Whether the guest may hold what belongs on a device of the host. */
  get isWriting(): boolean {
    return this.#slots.some((slot) => slot.index > this.#counts.readOnly);
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(act);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async #keep(slots: readonly DriveSlot[]): Promise<void> {
    await writeFileAtomic(this.#path, JSON.stringify(slots));
    this.#slots = slots;
  }

  #freeIndex({ isWritable, name }: Wanted): number {
    const { readOnly, writable } = this.#counts;
    const [first, count] = isWritable ? [1 + readOnly, writable] : [1, readOnly];
    const taken = new Set(this.#slots.map((slot) => slot.index));
    for (let index = first; index < first + count; index++) if (!taken.has(index)) return index;
    throw new TinderboxError(
      "LIMIT",
      isWritable
        ? `${name}: all ${count} writable drives of the microVM are in use; the containers of a pod can have ${count} different block devices to write to`
        : `${name}: all ${count} read-only drives of the microVM are in use; a pod can have ${count} different images and read-only block devices`,
    );
  }

  async #take(containerId: string, wanted: Wanted): Promise<DriveSlot> {
    const has = this.#slots.find((slot) => slot.holds === wanted.holds);
    if (has) {
      const slot = { ...has, containers: [...new Set([...has.containers, containerId])] };
      await this.#keep(this.#slots.map((other) => (other === has ? slot : other)));
      return slot;
    }
    const { holds, sizeBytes } = wanted;
    const index = this.#freeIndex(wanted);
    const slot: DriveSlot = { index, holds, sizeBytes, containers: [containerId] };
    await this.#keep([...this.#slots, slot]);
    try {
      await wanted.attach(index);
    } catch (cause) {
      // What the VMM did not answer it may have done.
      await this.#actions.setBacking(index, this.#placeholder).catch(() => {});
      await this.#actions.removeDevice(index);
      await this.#keep(this.#slots.filter((other) => other.index !== index));
      throw cause;
    }
    return slot;
  }

  /** The drive that holds the image, which gets one when it has none. @throws LIMIT when all are taken */
  acquireImage(
    containerId: string,
    image: Image,
  ): Promise<{ readonly index: number; readonly sizeBytes: bigint; readonly fsType: string }> {
    return this.#inTurn(async () => {
      const { size } = await stat(image.blockPath);
      const wanted = {
        name: `image ${image.id}`,
        holds: image.id,
        isWritable: false,
        sizeBytes: size - (size % 512),
        attach: (index: number) => this.#actions.setBacking(index, image.blockPath),
      };
      const { index } = await this.#take(containerId, wanted);
      return { index, sizeBytes: BigInt(wanted.sizeBytes), fsType: image.fsType };
    });
  }

  /**
   * The drive that holds the device, one for each access to it. @throws LIMIT when all are taken
   * @throws WRONG_STATE when it is to be written to, and the host itself uses it
   */
  acquireDevice(
    containerId: string,
    device: BlockDevice,
    isWritable: boolean,
  ): Promise<{ readonly index: number; readonly sizeBytes: bigint }> {
    return this.#inTurn(async () => {
      const holds = `device ${device.number} ${isWritable ? "rw" : "ro"}`;
      const { index, sizeBytes } = await this.#take(containerId, {
        name: device.name,
        holds,
        isWritable,
        sizeBytes: device.sizeBytes,
        attach: async (free) => {
          if (isWritable) await device.checkUnused();
          await this.#actions.setDevice(free, device, isWritable);
        },
      });
      return { index, sizeBytes: BigInt(sizeBytes) };
    });
  }

  /** The container is gone; a drive whose last one it was is a placeholder again. */
  release(containerId: string): Promise<void> {
    return this.#inTurn(async () => {
      for (const slot of this.#slots.filter(({ containers }) => containers.includes(containerId))) {
        const containers = slot.containers.filter((id) => id !== containerId);
        if (containers.length === 0) {
          await this.#actions.releaseInGuest(slot.index);
          await this.#actions.setBacking(slot.index, this.#placeholder);
          await this.#actions.removeDevice(slot.index);
        }
        const others = this.#slots.filter((other) => other !== slot);
        await this.#keep(containers.length === 0 ? others : [...others, { ...slot, containers }]);
      }
    });
  }
}
