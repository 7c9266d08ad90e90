/** A machine's whole configuration: sent by API calls, or written as a file for `--config-file`. */
import type { CallOptions, FirecrackerClient } from "./api-client.ts";
import { type Body, checkBody, checkVersion, requestPath, translatePaths } from "./check-request.ts";
import { FirecrackerArgumentError } from "./errors.ts";
import { type OperationName, type OperationSpec, operations, type PathUse } from "./operations.ts";
import type { SerialWire } from "./output-wire.ts";
import type { VmConfigWire } from "./vm-wire.ts";

/** All that is set before the start: what a config file holds, the serial device and the metadata, which it cannot. Paths are the host's. */
export type MachineConfiguration = VmConfigWire & {
  /** By API calls only; since 1.14 */
  readonly serial?: SerialWire;
  /** Data for the metadata store; with a config file it goes into a file of its own */
  readonly mmds?: object;
};

/** Keys of the config file, in the order that the API calls depend on each other. */
const sections: readonly (readonly [keyof MachineConfiguration, OperationName])[] = [
  ["logger", "putLogger"],
  ["metrics", "putMetrics"],
  ["serial", "putSerial"],
  ["machine-config", "putMachineConfig"],
  ["cpu-config", "putCpuConfig"],
  ["boot-source", "putBootSource"],
  ["drives", "putDrive"],
  ["pmem", "putPmem"],
  ["network-interfaces", "putNetworkInterface"],
  ["vsock", "putVsock"],
  ["entropy", "putEntropy"],
  ["balloon", "putBalloon"],
  ["memory-hotplug", "putMemoryHotplug"],
  ["mmds-config", "putMmdsConfig"],
  ["mmds", "putMmds"],
];

/** Makes the calls one after the other. @throws what the calls do */
export async function applyConfiguration(
  client: FirecrackerClient,
  configuration: MachineConfiguration,
  options: CallOptions,
): Promise<void> {
  const put = client as unknown as Record<string, (body: object, options: CallOptions) => Promise<void>>;
  for (const [key, name] of sections) {
    const value = configuration[key];
    if (value === undefined || value === null) continue;
    for (const body of Array.isArray(value) ? value : [value]) await put[name]?.(body, options);
  }
}

/**
 * The config file's content, checked for that version and with every path as the VMM sees it.
 * @throws {FirecrackerArgumentError} FC_ARGUMENT for `serial` @throws {FirecrackerVersionError} FC_VERSION
 */
export async function configFileContent(
  configuration: MachineConfiguration,
  vmmVersion: string,
  toVmmPath: (hostPath: string, use: PathUse) => string | Promise<string>,
): Promise<string> {
  if (configuration.serial !== undefined)
    throw new FirecrackerArgumentError("serial", "cannot be given in a config file; launch by API calls");
  const content: Record<string, unknown> = {};
  for (const [key, name] of sections) {
    const value = configuration[key];
    if (value === undefined || value === null || key === "mmds") continue;
    const operation: OperationSpec = operations[name];
    const bodies: Body[] = [];
    // A body's type has no index signature, so it is widened by hand.
    for (const body of (Array.isArray(value) ? value : [value]) as unknown as Body[]) {
      const path = requestPath(operation, operation.id && body[operation.id]);
      checkVersion(operation, path, body, "before", vmmVersion);
      checkBody(operation, body);
      bodies.push(await translatePaths(operation.body ?? {}, body, toVmmPath));
    }
    content[key] = Array.isArray(value) ? bodies : bodies[0];
  }
  return JSON.stringify(content);
}
