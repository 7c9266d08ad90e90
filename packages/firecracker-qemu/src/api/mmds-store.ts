// The metadata that PUT and PATCH /mmds keep: JSON of bounded size.
import { Fault } from "../fault.ts";
import { isJsonObject, type JsonValue, writeJson } from "../schema/json-value.ts";

/** JSON merge patch (RFC 7396). */
function mergePatch(target: JsonValue, patch: JsonValue): JsonValue {
  if (!isJsonObject(patch)) return patch;
  const out = new Map<string, JsonValue>(isJsonObject(target) ? target : []);
  for (const [key, value] of patch) {
    if (value === null) out.delete(key);
    else out.set(key, mergePatch(out.get(key) ?? null, value));
  }
  return out;
}

/** The store of one microVM. */
export class MmdsStore {
  readonly #limitBytes: number;
  /** undefined until the first PUT */
  #value: JsonValue | undefined;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** What the guest is given. */
  get value(): JsonValue {
    return this.#value ?? null;
  }

  /** As GET /mmds shows it. */
  get written(): string {
    return this.value === null ? "{}" : writeJson(this.value);
  }

  /** @throws {Fault} with status 413 when it is too large */
  replace(value: JsonValue): void {
    const bytes = Buffer.byteLength(writeJson(value));
    if (bytes > this.#limitBytes) {
      throw new Fault(
        `MMDS limit exceeded error: The data store is limited to ${this.#limitBytes} bytes; this would have ${bytes}.`,
        { status: 413 },
      );
    }
    this.#value = value;
  }

  /** @throws {Fault} when nothing was put yet, and as {@link replace} */
  merge(patch: JsonValue): void {
    if (this.#value === undefined) throw new Fault("MMDS error: The MMDS data store is not initialized.");
    this.replace(mergePatch(this.#value, patch));
  }
}
