/**
 * Answers put together from parts that were encoded before. A kubelet asks for every container each second; between two asks few have
 * changed, and encoding is most of the answer's cost. The bytes of some fields of a message, with those of others behind them, are the
 * message that has them all; so are those of a list's items.
 */
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

/** A whole message in bytes. */
export class Encoded {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}

/** Some of a message's fields in bytes. */
export function encode<S extends DescMessage>(schema: S, fields: MessageInitShape<S>): Uint8Array {
  return toBinary(schema, create(schema, fields));
}

/** Gives the fields of an answer that an object fills, made once for each object: only for objects that never change. */
export function encodedOnce<S extends DescMessage, T extends object>(
  schema: S,
  toFields: (source: T) => MessageInitShape<S>,
): (source: T) => Uint8Array {
  const known = new WeakMap<T, Uint8Array>();
  return (source) => {
    const found = known.get(source) ?? encode(schema, toFields(source));
    known.set(source, found);
    return found;
  };
}

/** The message that has the fields of all of these. */
export function joined(parts: readonly Uint8Array[]): Encoded {
  return new Encoded(Buffer.concat(parts));
}

/** Answers with nothing but a list: the last one is given again while its objects are the same, which never change. */
export function encodedList<T extends object>(
  entry: (item: T) => Uint8Array,
): (items: readonly T[]) => Encoded {
  let last: { readonly items: readonly T[]; readonly answer: Encoded } | undefined;
  return (items) => {
    const isSame = last?.items.length === items.length && last.items.every((item, n) => item === items[n]);
    if (last === undefined || !isSame) last = { items, answer: joined(items.map(entry)) };
    return last.answer;
  };
}
