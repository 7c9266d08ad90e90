/**
 * Messages put together from parts that were encoded before. A kubelet asks for every container each second; between two
 * asks few have changed, and encoding is most of the answer's cost.
 */
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

/** A whole message in bytes. */
export class Encoded {
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
}

/** Gives an object's message in bytes, made once for each object: only for objects that never change. */
export function encodedOnce<S extends DescMessage, T extends object>(
  schema: S,
  toMessage: (source: T) => MessageInitShape<S>,
): (source: T) => Uint8Array {
  const known = new WeakMap<T, Uint8Array>();
  return (source) => {
    const found = known.get(source) ?? toBinary(schema, create(schema, toMessage(source)));
    known.set(source, found);
    return found;
  };
}

/** The message that has encoded messages in the fields of `parts`, by their names, and the rest from `plain`. */
export function assemble<S extends DescMessage>(
  schema: S,
  parts: { readonly [K in keyof S["field"]]?: readonly Uint8Array[] },
  plain: MessageInitShape<S>,
): Encoded {
  const writer = new BinaryWriter();
  for (const field of schema.fields) {
    const encoded: readonly Uint8Array[] = parts[field.localName] ?? [];
    for (const bytes of encoded) writer.tag(field.number, WireType.LengthDelimited).bytes(bytes);
  }
  const { buffer, byteOffset, byteLength } = writer.raw(toBinary(schema, create(schema, plain))).finish();
  return new Encoded(Buffer.from(buffer, byteOffset, byteLength));
}

/** Answers with nothing but a list: the last one is given again while its objects are the same, which never change. */
export function encodedList<S extends DescMessage, T extends object>(
  schema: S,
  field: keyof S["field"],
  encode: (item: T) => Uint8Array,
): (items: readonly T[]) => Encoded {
  let last: { readonly items: readonly T[]; readonly answer: Encoded } | undefined;
  return (items) => {
    const isSame = last?.items.length === items.length && last.items.every((item, n) => item === items[n]);
    if (last === undefined || !isSame) {
      // A computed key's type is any string; it is the one that `field` is.
      const parts = { [field]: items.map(encode) } as { [K in keyof S["field"]]: Uint8Array[] };
      last = { items, answer: assemble(schema, parts, {} as MessageInitShape<S>) };
    }
    return last.answer;
  };
}
