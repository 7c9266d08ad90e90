// Request bodies are read as strictly as Firecracker reads them: no unknown field, no doubled or missing one, no number
// that would have to be rounded. A client that passes here passes there. Not here: checks that need the machine's state.
import { isUtf8 } from "node:buffer";
import type { Fault } from "../fault.ts";
import { JsonReader } from "./json-reader.ts";
import { floatText, JsonNumber, type JsonValue } from "./json-value.ts";

/** Reads a `T` from a place in a text or throws a {@link Fault} naming `field`. */
export type Decoder<T> = (reader: JsonReader, field: string) => T;

interface Field<T> {
  readonly decode: Decoder<T>;
  /** What an object without the field has; undefined when it has to be there */
  readonly absent: (() => T) | undefined;
  /** Whether an array in the object's place may end before it */
  readonly endsArray: boolean;
}

type Fields = Readonly<Record<string, Field<unknown>>>;
type Decoded<F extends Fields> = { readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never };

/** How much of a client's own text a message repeats */
const shown = (text: string): string => text.slice(0, 80);

/** The error of a value that is not an `expected`. */
function mismatch(reader: JsonReader, field: string, expected: string): Fault {
  const found = reader.describe();
  return reader.fault(`invalid type in \`${field}\`: ${found}, expected ${expected}`);
}

/** A field that has to be there. */
export function required<T>(decode: Decoder<T>): Field<T> {
  return { decode, absent: undefined, endsArray: false };
}

/** A field that may be absent or null: then undefined. */
export function optional<T>(decode: Decoder<T>): Field<T | undefined> {
  return { decode: nullable(decode), absent: () => undefined, endsArray: false };
}

/** A field that may be absent, but not null: then `value`. */
export function defaulted<T>(decode: Decoder<T>, value: T): Field<T> {
  return { decode, absent: () => value, endsArray: true };
}

/** Whatever `decode` reads, or null: then undefined. */
export function nullable<T>(decode: Decoder<T>): Decoder<T | undefined> {
  return (reader, field) => {
    if (reader.peek() !== "n") return decode(reader, field);
    reader.word();
    return undefined;
  };
}

/** A string. */
export const text: Decoder<string> = (reader, field) => {
  if (reader.peek() !== '"') throw mismatch(reader, field, "a string");
  return reader.string();
};

/** A string that `parse` makes something of; `what` says what it has to be. */
export function parsed<T>(what: string, parse: (source: string) => T | undefined): Decoder<T> {
  return (reader, field) => {
    const source = text(reader, field);
    const value = parse(source);
    if (value === undefined)
      throw reader.fault(`invalid value in \`${field}\`: ${JSON.stringify(shown(source))}, expected ${what}`);
    return value;
  };
}

/** true or false. */
export const flag: Decoder<boolean> = (reader, field) => {
  const next = reader.peek();
  const value = next === "t" || next === "f" ? reader.word() : undefined;
  if (typeof value !== "boolean") throw mismatch(reader, field, "a boolean");
  return value;
};

/** Anything at all. */
export const anything: Decoder<JsonValue> = (reader, field) => {
  switch (reader.peek()) {
    case "{": {
      const object = new Map<string, JsonValue>();
      reader.members((key) => {
        reader.colon();
        object.set(key, anything(reader, field));
      });
      return object;
    }
    case "[": {
      const list: JsonValue[] = [];
      reader.elements(() => list.push(anything(reader, field)));
      return list;
    }
    case '"':
      return reader.string();
    default: {
      if (!/[-0-9]/.test(reader.peek())) return reader.word();
      const token = reader.number();
      return new JsonNumber(token.kind === "integer" ? token.value.toString() : floatText(token.value));
    }
  }
};

const maxima = { u8: 255n, u16: 65535n, u32: 4294967295n, u64: (1n << 64n) - 1n };

/** A whole number of the wire type `name`. Over 2^53 the nearest that JavaScript has. */
export function unsigned(name: keyof typeof maxima): Decoder<number> {
  return (reader, field) => {
    if (!/[-0-9]/.test(reader.peek())) throw mismatch(reader, field, name);
    const token = reader.number();
    if (token.kind === "float")
      throw reader.fault(
        `invalid type in \`${field}\`: floating point \`${floatText(token.value)}\`, expected ${name}`,
      );
    if (token.value < 0n || token.value > maxima[name])
      throw reader.fault(`invalid value in \`${field}\`: integer \`${token.value}\`, expected ${name}`);
    return Number(token.value);
  };
}

function alternatives(names: readonly string[]): string {
  const quoted = names.map((one) => `\`${one}\``);
  if (quoted.length === 0) return "none";
  return quoted.length < 3 ? quoted.join(" or ") : `one of ${quoted.join(", ")}`;
}

/** One of a few strings; as `{"name": null}`, too. */
export function variant<const V extends string>(...allowed: readonly V[]): Decoder<V> {
  const find = (reader: JsonReader, field: string, source: string): V => {
    const found = allowed.find((one) => one === source);
    if (found === undefined)
      throw reader.fault(
        `unknown variant \`${shown(source)}\` in \`${field}\`, expected ${alternatives(allowed)}`,
      );
    return found;
  };
  return (reader, field) => {
    if (reader.peek() !== "{") {
      if (reader.peek() !== '"') throw mismatch(reader, field, alternatives(allowed));
      return find(reader, field, reader.string());
    }
    let value: V | undefined;
    reader.members((key) => {
      if (value !== undefined) throw reader.fault(`expected one key in \`${field}\``);
      value = find(reader, field, key);
      reader.colon();
      if (reader.peek() !== "n") throw mismatch(reader, field, "null");
      reader.word();
    });
    if (value === undefined) throw reader.fault(`expected ${alternatives(allowed)} in \`${field}\``);
    return value;
  };
}

/** An array of `item`s. */
export function list<T>(item: Decoder<T>): Decoder<readonly T[]> {
  return (reader, field) => {
    if (reader.peek() !== "[") throw mismatch(reader, field, "a sequence");
    const out: T[] = [];
    reader.elements((index) => out.push(item(reader, `${field}[${index}]`)));
    return out;
  };
}

/** An object with any keys and `item`s as values. */
export function dictionary<T>(item: Decoder<T>): Decoder<ReadonlyMap<string, T>> {
  return (reader, field) => {
    if (reader.peek() !== "{") throw mismatch(reader, field, "a map");
    const out = new Map<string, T>();
    reader.members((key) => {
      reader.colon();
      out.set(key, item(reader, `${field}.${shown(key)}`));
    });
    return out;
  };
}

/** An object of exactly these fields, or an array of their values in this order. */
export function object<F extends Fields>(fields: F): Decoder<Decoded<F>> {
  return decodeObject(fields, false);
}

/** An object of these fields and others that do not matter. */
export function openObject<F extends Fields>(fields: F): Decoder<Decoded<F>> {
  return decodeObject(fields, true);
}

function decodeObject<F extends Fields>(fields: F, isOpen: boolean): Decoder<Decoded<F>> {
  const names = Object.keys(fields);
  const field = (name: string): Field<unknown> | undefined =>
    Object.hasOwn(fields, name) ? fields[name] : undefined;
  const fromObject = (reader: JsonReader, out: Map<string, unknown>): void => {
    reader.members((key) => {
      const known = field(key);
      if (known === undefined && !isOpen)
        throw reader.fault(`unknown field \`${shown(key)}\`, expected ${alternatives(names)}`);
      if (out.has(key)) throw reader.fault(`duplicate field \`${key}\``);
      reader.colon();
      if (known === undefined) reader.skipValue();
      else out.set(key, known.decode(reader, key));
    });
    for (const name of names) {
      if (out.has(name)) continue;
      const absent = field(name)?.absent;
      if (absent === undefined) throw reader.fault(`missing field \`${name}\``);
      out.set(name, absent());
    }
  };
  const fromArray = (reader: JsonReader, where: string, out: Map<string, unknown>): void => {
    reader.elements((index) => {
      const name = names[index];
      if (name === undefined) throw reader.fault("trailing characters");
      out.set(name, field(name)?.decode(reader, name));
    });
    for (const name of names) {
      if (out.has(name)) continue;
      const { absent, endsArray = false } = field(name) ?? {};
      if (absent === undefined || !endsArray)
        throw reader.fault(
          `invalid length ${out.size} of \`${where}\`, expected an object of ${names.length} fields`,
        );
      out.set(name, absent());
    }
  };
  return (reader, where) => {
    const out = new Map<string, unknown>();
    if (reader.peek() === "{") fromObject(reader, out);
    else if (reader.peek() === "[") fromArray(reader, where, out);
    else throw mismatch(reader, where, `an object with ${alternatives(names)}`);
    // Every key of F was just decoded by its own decoder, which the compiler cannot follow through the loop.
    return Object.fromEntries(names.map((name) => [name, out.get(name)])) as Decoded<F>;
  };
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The text of `bytes`, up to the first that are none. */
function decodable(bytes: Buffer): { readonly text: string; readonly isCut: boolean } {
  try {
    return { text: utf8.decode(bytes), isCut: false };
  } catch {
    let [good, bad] = [0, bytes.length];
    while (bad - good > 1) {
      const middle = (good + bad) >> 1;
      if (isUtf8(bytes.subarray(0, middle))) good = middle;
      else bad = middle;
    }
    return { text: bytes.toString("utf8", 0, good), isCut: true };
  }
}

/** Parses `source` and decodes it. @throws {Fault} on anything that is not exactly what `decode` wants */
export function parseStrict<T>(
  source: string | Buffer,
  decode: Decoder<T>,
  what = "The json body of the request",
): T {
  const { text: json, isCut } = decodable(Buffer.from(source));
  const reader = new JsonReader(json, what, isCut);
  const value = decode(reader, "body");
  reader.end();
  return value;
}
