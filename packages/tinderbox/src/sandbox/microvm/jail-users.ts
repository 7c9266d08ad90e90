/** Users for jailed VMMs: one for each, so that one that was taken over has no rights to the files or processes of another. */
import { TinderboxError } from "../../base/errors.ts";

/** Above what systems give to people, services and user namespaces, and above firecracker-qemu's own. */
const firstUser = 2_100_000_000;
const users = 65_536;

/** The users of all jails of this daemon. */
export class JailUsers {
  readonly #takenBy = new Map<string, number>();

  /** The first that no other sandbox has. @throws LIMIT */
  take(sandboxId: string): number {
    const taken = new Set(this.#takenBy.values());
    for (let user = firstUser; user < firstUser + users; user++) {
      if (taken.has(user)) continue;
      this.#takenBy.set(sandboxId, user);
      return user;
    }
    throw new TinderboxError("LIMIT", `all ${users} users for jailed microVMs are in use`);
  }

  /** One that a sandbox had before the daemon started. */
  keep(sandboxId: string, user: number): void {
    this.#takenBy.set(sandboxId, user);
  }

  /** The sandbox has no more processes. */
  giveBack(sandboxId: string): void {
    this.#takenBy.delete(sandboxId);
  }
}
