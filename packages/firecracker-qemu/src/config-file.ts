// `--config-file`: a whole machine in one JSON document, started at once.
import { readFileSync } from "node:fs";
import type { MmdsStore } from "./api/mmds-store.ts";
import { Fault, systemReason } from "./fault.ts";
import type { Microvm } from "./machine/microvm.ts";
import type { Observations } from "./machine/observations.ts";
import * as bodies from "./schema/bodies.ts";
import { type CpuConfig, cpuConfigBody } from "./schema/cpu-config.ts";
import type { JsonValue } from "./schema/json-value.ts";
import {
  type Decoder,
  defaulted,
  list,
  openObject,
  optional,
  parseStrict,
  required,
  text,
} from "./schema/strict-json.ts";

/** The template itself, or the path of a file that has it. */
const cpuConfigOrPath: Decoder<CpuConfig | string> = (reader, field) =>
  reader.peek() === '"' ? text(reader, field) : cpuConfigBody(reader, field);

/** What it does not know at the top is let pass. */
const configFileBody = openObject({
  balloon: optional(bodies.balloonBody),
  drives: required(list(bodies.driveBody)),
  "boot-source": required(bodies.bootSourceBody),
  "cpu-config": optional(cpuConfigOrPath),
  logger: optional(bodies.loggerBody),
  "machine-config": optional(bodies.machineConfigBody),
  metrics: optional(bodies.metricsBody),
  "mmds-config": optional(bodies.mmdsConfigBody),
  "network-interfaces": defaulted(list(bodies.networkInterfaceBody), []),
  vsock: optional(bodies.vsockBody),
  entropy: optional(bodies.entropyBody),
  pmem: defaulted(list(bodies.pmemBody), []),
  "memory-hotplug": optional(bodies.memoryHotplugBody),
});

function readCpuConfig(source: CpuConfig | string): CpuConfig {
  if (typeof source !== "string") return source;
  let file: Buffer;
  try {
    file = readFileSync(source);
  } catch (cause) {
    throw new Fault(`File operation error: \`cpu-config\` ${source}: ${systemReason(cause)}`, { cause });
  }
  return parseStrict(file, cpuConfigBody, source);
}

export type BootSources = {
  /** The config file's text */
  readonly config: string;
  /** What `--metadata` gave */
  readonly metadata: JsonValue | undefined;
};

/** Does what the file says, in Firecracker's order, and starts the machine. @throws {Fault} */
export async function bootFromConfig(
  { config: source, metadata }: BootSources,
  machine: Microvm,
  observations: Observations,
  mmds: MmdsStore,
): Promise<void> {
  const file = parseStrict(source, configFileBody, "Invalid JSON: the config file");
  if (file.logger) observations.configureLogger(file.logger);
  if (file.metrics) observations.openMetrics(file.metrics);
  const { config } = machine;
  if (file["machine-config"]) config.setMachine(file["machine-config"]);
  if (file["cpu-config"] !== undefined) config.setCpuConfig(readCpuConfig(file["cpu-config"]));
  config.setBootSource(file["boot-source"]);
  for (const drive of file.drives) config.putDrive(drive);
  for (const device of file["network-interfaces"]) config.putInterface(device);
  if (file.vsock) await machine.setVsock(file.vsock);
  if (file.balloon) config.setBalloon(file.balloon);
  if (metadata !== undefined) mmds.replace(metadata);
  if (file["mmds-config"]) config.setMmds(file["mmds-config"]);
  if (file.entropy) config.setEntropy(file.entropy);
  for (const pmem of file.pmem) config.putPmem(pmem);
  if (file["memory-hotplug"]) config.setMemoryHotplug(file["memory-hotplug"]);
  await machine.start();
}
