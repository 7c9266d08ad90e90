/** CDI devices of a container: CDI_devices, and annotations for kubelets that are older than it. Images cannot name any. */
import type { CdiRequest } from "../cdi/contract.ts";
import { parseQualifiedName } from "../cdi/device-name.ts";
import type { ContainerConfig } from "../rpc/gen/runtime/v1/api_pb.ts";
import { invalid } from "./field-checks.ts";

const prefix = "cdi.k8s.io/";
const maxDevices = 1000;

function request(field: string, name: string): CdiRequest {
  if (!parseQualifiedName(name)) throw invalid(field, name, "a CDI device like vendor.com/class=name");
  return { field, name };
}

function ofAnnotation(key: string, value: string): readonly CdiRequest[] {
  const field = `config.annotations[${JSON.stringify(key)}]`;
  if (!/^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$/.test(key.slice(prefix.length)))
    throw invalid(
      "config.annotations",
      key,
      `${prefix} and 1 to 63 letters and digits, \`_\`, \`-\` and \`.\` between them`,
    );
  return value.split(",").map((name) => request(field, name));
}

/** Each once, in the order in which they are asked for: CDI_devices, then annotations. */
export function parseCdiDevices(
  given: Pick<ContainerConfig, "CDIDevices" | "annotations">,
): readonly CdiRequest[] {
  const all = [
    ...given.CDIDevices.map(({ name }, n) => request(`config.CDI_devices[${n}].name`, name)),
    ...Object.entries(given.annotations).flatMap(([key, value]) =>
      key.startsWith(prefix) ? ofAnnotation(key, value) : [],
    ),
  ];
  if (all.length > maxDevices) throw invalid("config.CDI_devices", all.length, `at most ${maxDevices}`);
  return all.filter(({ name }, n) => all.findIndex((other) => other.name === name) === n);
}
