// A machine's configuration as a snapshot keeps it, and made again from that.
import * as bodies from "../schema/bodies.ts";
import { defaulted, list, openObject, optional, parseStrict, required } from "../schema/strict-json.ts";
import type { VmConfig } from "./vm-config.ts";

const savedConfig = openObject({
  balloon: optional(bodies.balloonBody),
  drives: required(list(bodies.driveBody)),
  "machine-config": required(bodies.machineConfigBody),
  "mmds-config": optional(bodies.mmdsConfigBody),
  "network-interfaces": defaulted(list(bodies.networkInterfaceBody), []),
  vsock: optional(bodies.vsockBody),
  entropy: optional(bodies.entropyBody),
});

export type SavedConfig = ReturnType<typeof savedConfig>;

/** @throws {Fault} when it is not what a snapshot has */
export function parseSavedConfig(saved: object): SavedConfig {
  return parseStrict(JSON.stringify(saved), savedConfig, "The snapshot's configuration");
}

/** Sets up everything but the vsock device. `tapOf` says which tap an interface gets. @throws {Fault} as the requests would */
export function applySavedConfig(
  saved: SavedConfig,
  config: VmConfig,
  tapOf: (interfaceId: string, savedTap: string) => string,
): void {
  config.setMachine(saved["machine-config"]);
  for (const drive of saved.drives) config.putDrive(drive);
  for (const device of saved["network-interfaces"])
    config.putInterface({ ...device, host_dev_name: tapOf(device.iface_id, device.host_dev_name) });
  if (saved.balloon) config.setBalloon(saved.balloon);
  if (saved["mmds-config"]) config.setMmds(saved["mmds-config"]);
  config.entropy = saved.entropy;
}
