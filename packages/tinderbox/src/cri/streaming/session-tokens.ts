/** Single-use tokens for streaming URLs: short-lived, few, unguessable. */
import { randomBytes } from "node:crypto";
import { TinderboxError } from "../../base/errors.ts";

const lifetimeMs = 60_000;
const maxPending = 1000;
const tokenBytes = 24;

/** What is kept for a token until its one use. */
export class SessionTokens<T> {
  readonly #pending = new Map<string, { readonly value: T; readonly expiresAt: number }>();
  readonly #now: () => number;

  /** `now` in ms; a clock that does not jump. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** A new token for `value`. @throws LIMIT when too many wait */
  issue(value: T): string {
    this.#expire();
    if (this.#pending.size >= maxPending) {
      throw new TinderboxError(
        "LIMIT",
        `${this.#pending.size} streaming URLs wait for their client, at most ${maxPending} may`,
      );
    }
    const token = randomBytes(tokenBytes).toString("base64url");
    this.#pending.set(token, { value, expiresAt: this.#now() + lifetimeMs });
    return token;
  }

  /** The value, once; undefined for an unknown, used or old token. */
  take(token: string): T | undefined {
    this.#expire();
    const found = this.#pending.get(token);
    this.#pending.delete(token);
    return found?.value;
  }

  /** A Map keeps the order of issue, which is the order of expiry. */
  #expire(): void {
    const now = this.#now();
    for (const [token, { expiresAt }] of this.#pending) {
      if (expiresAt > now) return;
      this.#pending.delete(token);
    }
  }
}
