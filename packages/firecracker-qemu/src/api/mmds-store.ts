// The metadata that PUT and PATCH /mmds keep: one JSON object of bounded size.
import { Fault } from "../fault.ts";

type JsonObject = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** JSON merge patch (RFC 7396). */
function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const out = new Map<string, unknown>(isObject(target) ? Object.entries(target) : []);
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) out.delete(key);
    else out.set(key, mergePatch(out.get(key), value));
  }
  return Object.fromEntries(out);
}

/** The store of one microVM. */
export class MmdsStore {
  readonly #limitBytes: number;
  #value: JsonObject = {};

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  get value(): JsonObject {
    return this.#value;
  }

  replace(value: unknown): void {
    if (!isObject(value)) throw new Fault("The metadata has to be a JSON object.");
    const bytes = Buffer.byteLength(JSON.stringify(value));
    if (bytes > this.#limitBytes) {
      throw new Fault(`The metadata has ${bytes} bytes; the store holds at most ${this.#limitBytes}.`, {
        status: 413,
      });
    }
    this.#value = value;
  }

  merge(patch: unknown): void {
    if (!isObject(patch)) throw new Fault("The metadata has to be a JSON object.");
    this.replace(mergePatch(this.#value, patch));
  }
}
