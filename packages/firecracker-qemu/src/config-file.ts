// `--config-file`: a whole machine in one JSON document, started at once.
import { readFileSync } from "node:fs";
import type { Microvm } from "./machine/microvm.ts";
import type { Observations } from "./machine/observations.ts";
import { configFileBody } from "./schema/bodies.ts";
import { parseStrict } from "./schema/strict-json.ts";

const maxBytes = 1 << 20;

/** Does what the file says and starts the machine. @throws {Fault} or the system's error, naming the file */
export async function bootFromFile(
  path: string,
  machine: Microvm,
  observations: Observations,
): Promise<void> {
  const source = readFileSync(path, "utf8");
  if (source.length > maxBytes) throw new Error(`${path}: more than ${maxBytes} bytes`);
  const file = parseStrict(source, configFileBody);
  const { config } = machine;
  if (file.logger) observations.configureLogger(file.logger);
  if (file.metrics) observations.openMetrics(file.metrics.metrics_path);
  if (file["machine-config"]) config.setMachine(file["machine-config"]);
  config.setBootSource(file["boot-source"]);
  for (const drive of file.drives) config.putDrive(drive.drive_id, drive);
  for (const device of file["network-interfaces"] ?? []) config.putInterface(device.iface_id, device);
  if (file.entropy) config.setEntropy(file.entropy);
  if (file.vsock) await machine.setVsock(file.vsock);
  await machine.start();
}
