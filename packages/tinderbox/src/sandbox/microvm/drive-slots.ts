/**
 * Which placeholder drive of a microVM holds which image, and for which containers. Written down before a drive is
 * changed, so a restarted daemon knows what the guest may be using.
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, TinderboxError } from "../../base/errors.ts";
import { writeFileAtomic } from "../../base/write-file.ts";
import type { Image } from "../../image/contract.ts";

export type DriveSlot = {
  readonly index: number;
  readonly imageId: string;
  readonly containers: readonly string[];
};

export type DriveActions = {
  /** Gives the drive another backing file. */
  setBacking(index: number, path: string): Promise<void>;
  /** Makes the guest let go of the drive. */
  releaseInGuest(index: number): Promise<void>;
};

/** The drives of one microVM; index 0 is the scratch drive, 1..count are the placeholders. */
export class DriveSlots {
  readonly #path: string;
  readonly #placeholder: string;
  readonly #count: number;
  readonly #actions: DriveActions;
  #slots: readonly DriveSlot[];
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(directory: string, count: number, actions: DriveActions, slots: readonly DriveSlot[]) {
    this.#path = join(directory, "drives.json");
    this.#placeholder = join(directory, "placeholder");
    this.#count = count;
    this.#actions = actions;
    this.#slots = slots;
  }

  static async load(directory: string, count: number, actions: DriveActions): Promise<DriveSlots> {
    let slots: DriveSlot[] = [];
    try {
      const value: unknown = JSON.parse(await readFile(join(directory, "drives.json"), "utf8"));
      // Our own file, written whole or not at all.
      if (Array.isArray(value)) slots = value as DriveSlot[];
    } catch (cause) {
      if (errnoOf(cause) !== "ENOENT") throw cause;
    }
    return new DriveSlots(directory, count, actions, slots);
  }

  /** Containers that have a drive. */
  get containers(): readonly string[] {
    return this.#slots.flatMap((slot) => slot.containers);
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

  /** The drive that holds the image, which gets one when it has none. @throws LIMIT when all are taken */
  acquire(
    containerId: string,
    image: Image,
  ): Promise<{ readonly index: number; readonly sizeBytes: bigint; readonly fsType: string }> {
    return this.#inTurn(async () => {
      const { size } = await stat(image.blockPath);
      const drive = { sizeBytes: BigInt(size - (size % 512)), fsType: image.fsType };
      const has = this.#slots.find((slot) => slot.imageId === image.id);
      if (has) {
        const containers = [...new Set([...has.containers, containerId])];
        await this.#keep(this.#slots.map((slot) => (slot === has ? { ...has, containers } : slot)));
        return { ...drive, index: has.index };
      }
      const taken = new Set(this.#slots.map((slot) => slot.index));
      let index = 1;
      while (taken.has(index)) index++;
      if (index > this.#count) {
        throw new TinderboxError(
          "LIMIT",
          `all ${this.#count} image drives of the microVM are in use; a pod can have containers of ${this.#count} different images`,
        );
      }
      await this.#keep([...this.#slots, { index, imageId: image.id, containers: [containerId] }]);
      try {
        await this.#actions.setBacking(index, image.blockPath);
      } catch (cause) {
        await this.#keep(this.#slots.filter((slot) => slot.index !== index));
        throw cause;
      }
      return { ...drive, index };
    });
  }

  /** The container is gone; the drive of an image whose last one it was is a placeholder again. */
  release(containerId: string): Promise<void> {
    return this.#inTurn(async () => {
      for (const slot of this.#slots.filter(({ containers }) => containers.includes(containerId))) {
        const containers = slot.containers.filter((id) => id !== containerId);
        if (containers.length === 0) {
          await this.#actions.releaseInGuest(slot.index);
          await this.#actions.setBacking(slot.index, this.#placeholder);
        }
        const others = this.#slots.filter((other) => other !== slot);
        await this.#keep(containers.length === 0 ? others : [...others, { ...slot, containers }]);
      }
    });
  }
}
