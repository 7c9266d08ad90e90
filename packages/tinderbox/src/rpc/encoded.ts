/**
 * Messages put together from parts that were encoded before. A kubelet asks for every container each second; between two
 * asks few have changed, and encoding is most of the answer's cost.
 */
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

/** A whole message in bytes. */
export class Encoded {
  readonly bytes: Buffer;

  constructor(bytes: Uint8Array) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
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
  writer.raw(toBinary(schema, create(schema, plain)));
  return new Encoded(writer.finish());
}
