/** Whole messages of which no field can be had: each is sent alone. */
import type { DescMessage } from "@bufbuild/protobuf";
import {
  ContainerConfigSchema,
  PodSandboxConfigSchema,
} from "../../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { leafPaths, onlyField } from "./field-paths.ts";
import type { Row } from "./row.ts";

/** Rows for all fields below `within`, where `field` is what the refusal names. */
function refuseAll(type: DescMessage, within: string, note: string): readonly Row[] {
  const at = `${type.name}.${within}.`;
  const pattern = new RegExp(`^config\\.${within.replaceAll(".", "\\.")}: `);
  return leafPaths(type)
    .filter((path) => path.startsWith(at))
    .map((path): Row => {
      // Of the right type by the descriptor that it was made from.
      const init = onlyField(type, path.split(".").slice(1)) as never;
      return {
        fields: [path],
        outcome: "refused",
        note,
        check: (scene) =>
          type === PodSandboxConfigSchema
            ? scene.refusesPod(init, pattern)
            : scene.refusesContainer(init, pattern),
      };
    });
}

export const refusedRows: readonly Row[] = [PodSandboxConfigSchema, ContainerConfigSchema].flatMap((type) => [
  ...refuseAll(type, "linux.security_context.selinux_options", "SELinux labels are not set"),
  ...refuseAll(type, "windows", "this is a Linux node"),
]);
