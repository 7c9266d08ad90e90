/** The fields of a message type and of all below it, from the generated descriptors: what a later CRI adds is seen at once. */
import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";

/** Every field that is no message itself, as `PodSandboxConfig.metadata.name`; repeated fields without an index. */
export function leafPaths(type: DescMessage, at: string = type.name): readonly string[] {
  return type.fields.flatMap((field) =>
    field.message === undefined ? [`${at}.${field.name}`] : leafPaths(field.message, `${at}.${field.name}`),
  );
}

function anyValue(field: DescField): unknown {
  if (field.fieldKind === "map") return { x: "y" };
  if (field.enum !== undefined) return 1;
  if (field.scalar === ScalarType.STRING) return "x";
  if (field.scalar === ScalarType.BOOL) return true;
  return field.scalar === ScalarType.INT64 || field.scalar === ScalarType.UINT64 ? 1n : 1;
}

/** A message of `type` in which the field at `names` alone is set, to a value that is not its default. */
export function onlyField(type: DescMessage, names: readonly string[]): Record<string, unknown> {
  const [name, ...more] = names;
  const field = type.fields.find((one) => one.name === name);
  if (field === undefined) throw new Error(`${type.name} has no field ${name}`);
  const value = field.message === undefined ? anyValue(field) : onlyField(field.message, more);
  return { [field.localName]: field.fieldKind === "list" ? [value] : value };
}
