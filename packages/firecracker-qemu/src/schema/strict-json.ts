// Request bodies are read as strictly as Firecracker reads them: no unknown field, no missing one, no number
// that would have to be rounded. A client that passes here passes there. Not here: checks that need the machine's state.
import { Fault } from "../fault.ts";

/** A number written with a fraction or an exponent: never an integer here, even when its value is whole. */
class Fraction {
  readonly source: string;
  constructor(source: string) {
    this.source = source;
  }
}

/** Turns an already parsed JSON value into `T` or throws a {@link Fault} naming `field`. */
export type Decoder<T> = (value: unknown, field: string) => T;

interface Field<T> {
  readonly decode: Decoder<T>;
  readonly required: boolean;
  readonly fallback: (() => T) | undefined;
}

type Fields = Readonly<Record<string, Field<unknown>>>;
type Decoded<F extends Fields> = { readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never };

function bad(message: string): Fault {
  return new Fault(`The json body of the request cannot be deserialized: ${message}`);
}

function describe(value: unknown): string {
  if (value === null) return "null";
  if (value instanceof Fraction) return `floating point \`${value.source}\``;
  if (Array.isArray(value)) return "sequence";
  if (typeof value === "string") return `string ${JSON.stringify(value.slice(0, 80))}`;
  if (typeof value === "number") return `integer \`${value}\``;
  if (typeof value === "boolean") return `boolean \`${value}\``;
  return "map";
}

/** A field that has to be there. */
export function required<T>(decode: Decoder<T>): Field<T> {
  return { decode, required: true, fallback: undefined };
}

/** A field that may be absent or null: then undefined. */
export function optional<T>(decode: Decoder<T>): Field<T | undefined> {
  return {
    decode: (value, field) => (value === null ? undefined : decode(value, field)),
    required: false,
    fallback: () => undefined,
  };
}

/** A field that may be absent, but not null: then `value`. */
export function defaulted<T>(decode: Decoder<T>, value: T): Field<T> {
  return { decode, required: false, fallback: () => value };
}

/** A string. */
export const text: Decoder<string> = (value, field) => {
  if (typeof value !== "string")
    throw bad(`invalid type in \`${field}\`: ${describe(value)}, expected a string`);
  return value;
};

/** true or false. */
export const flag: Decoder<boolean> = (value, field) => {
  if (typeof value !== "boolean")
    throw bad(`invalid type in \`${field}\`: ${describe(value)}, expected a boolean`);
  return value;
};

/** Anything at all. */
export const anything: Decoder<unknown> = (value) => value;

/** A whole number from 0 to `max`; `name` is how the wire type is called in messages. */
export function unsigned(name: "u8" | "u16" | "u32" | "u64"): Decoder<number> {
  const max = { u8: 255, u16: 65535, u32: 4294967295, u64: Number.MAX_SAFE_INTEGER }[name];
  return (value, field) => {
    if (typeof value !== "number")
      throw bad(`invalid type in \`${field}\`: ${describe(value)}, expected ${name}`);
    if (!Number.isInteger(value) || value < 0 || value > max)
      throw bad(`invalid value in \`${field}\`: ${describe(value)}, expected ${name}`);
    return value;
  };
}

/** One of a few strings. */
export function variant<const V extends string>(...allowed: readonly V[]): Decoder<V> {
  return (value, field) => {
    const text_ = text(value, field);
    for (const one of allowed) if (one === text_) return one;
    const list = allowed.map((one) => `\`${one}\``).join(", ");
    throw bad(`unknown variant \`${text_.slice(0, 80)}\` in \`${field}\`, expected one of ${list}`);
  };
}

/** An array of `item`s. */
export function list<T>(item: Decoder<T>): Decoder<readonly T[]> {
  return (value, field) => {
    if (!Array.isArray(value))
      throw bad(`invalid type in \`${field}\`: ${describe(value)}, expected a sequence`);
    return value.map((one: unknown, index) => item(one, `${field}[${index}]`));
  };
}

/** An object of exactly these fields. */
export function object<F extends Fields>(fields: F): Decoder<Decoded<F>> {
  return (value, where) => {
    if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Fraction)
      throw bad(`invalid type in \`${where}\`: ${describe(value)}, expected an object`);
    const given = new Map<string, unknown>(Object.entries(value));
    for (const key of given.keys()) {
      if (Object.hasOwn(fields, key)) continue;
      const known = Object.keys(fields).map((one) => `\`${one}\``);
      throw bad(`unknown field \`${key.slice(0, 80)}\`, expected one of ${known.join(", ")}`);
    }
    const out: Record<string, unknown> = {};
    for (const [key, field] of Object.entries(fields)) {
      if (given.has(key)) out[key] = field.decode(given.get(key), key);
      else if (field.required) throw bad(`missing field \`${key}\``);
      else out[key] = field.fallback?.();
    }
    // Every key of F was just decoded by its own decoder, which the compiler cannot follow through the loop.
    return out as Decoded<F>;
  };
}

/** Parses `source` and decodes it. @throws {Fault} on anything that is not exactly what `decode` wants */
export function parseStrict<T>(source: string, decode: Decoder<T>): T {
  let value: unknown;
  try {
    value = JSON.parse(source, (_key, one: unknown, context?: { source?: string }) => {
      const written = context?.source;
      return typeof one === "number" && written !== undefined && /[.eE]/.test(written)
        ? new Fraction(written)
        : one;
    });
  } catch (thrown) {
    throw bad(`not valid JSON: ${thrown instanceof Error ? thrown.message.slice(0, 200) : "syntax error"}`);
  }
  return decode(value, "body");
}
