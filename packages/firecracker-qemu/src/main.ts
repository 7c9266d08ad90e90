// `firecracker-qemu`: the program. It ends when the guest does, and everything it started ends with it.
import { existsSync, readFileSync, unlinkSync } from "node:fs";
import { MmdsStore } from "./api/mmds-store.ts";
import { route } from "./api/routes.ts";
import { bootFromFile } from "./config-file.ts";
import { reason } from "./fault.ts";
import { serve } from "./http/server.ts";
import { Microvm } from "./machine/microvm.ts";
import { Observations, parseLevel } from "./machine/observations.ts";
import { ArgumentError, help, type Options, parseOptions } from "./options.ts";
import { snapshotVersion, vmmVersion } from "./version.ts";

/** Firecracker's exit statuses that this program has, too */
const status = { ok: 0, failure: 1, hangUp: 156, badConfiguration: 152, badArguments: 153 };

function fail(message: string, exitCode: number): never {
  process.stderr.write(`firecracker-qemu: ${message}\n`);
  process.exit(exitCode);
}

async function run(options: Options): Promise<void> {
  if (options.level !== undefined && parseLevel(options.level) === undefined) {
    fail(
      `--level ${options.level}: it can be Error, Warning, Info, Debug, Trace or Off`,
      status.badConfiguration,
    );
  }
  const observations = new Observations(options.id);
  observations.configureLogger({
    log_path: options.logPath,
    level: options.level,
    show_level: options.showLevel,
    show_log_origin: options.showLogOrigin,
  });
  if (options.metricsPath !== undefined) observations.openMetrics(options.metricsPath);
  observations.log("Info", `Running Firecracker v${vmmVersion} (firecracker-qemu)`);
  const machine = new Microvm();
  const mmds = new MmdsStore(options.mmdsLimitBytes);
  if (options.metadataFile !== undefined)
    mmds.replace(JSON.parse(readFileSync(options.metadataFile, "utf8")));
  const { apiSocket } = options;
  if (apiSocket !== undefined) {
    if (existsSync(apiSocket))
      fail(`${apiSocket} exists: another process may use it; remove it if none does`, status.failure);
    await serve(apiSocket, options.maxPayloadBytes, (request) =>
      route({ id: options.id, machine, observations, mmds }, request),
    );
  }
  process.on("SIGHUP", () => process.exit(status.hangUp));
  if (options.configFile !== undefined) {
    try {
      await bootFromFile(options.configFile, machine, observations);
    } catch (cause) {
      await machine.close();
      if (apiSocket !== undefined) unlinkSync(apiSocket);
      fail(`${options.configFile}: ${reason(cause)}`, status.failure);
    }
  }
  const { exitCode, why } = await machine.ended;
  await machine.close();
  observations.log(exitCode === 0 ? "Info" : "Error", `Firecracker exiting with status ${exitCode}: ${why}`);
  observations.flushMetrics();
  if (apiSocket !== undefined && existsSync(apiSocket)) unlinkSync(apiSocket);
  if (exitCode !== 0) process.stderr.write(`firecracker-qemu: ${why}\n`);
  process.exit(exitCode);
}

try {
  const command = parseOptions(process.argv.slice(2));
  switch (command.kind) {
    case "help":
      process.stdout.write(help);
      break;
    case "version":
      process.stdout.write(`Firecracker v${vmmVersion}\n`);
      break;
    case "snapshot-version":
      process.stdout.write(`v${snapshotVersion}\n`);
      break;
    case "run":
      await run(command.options);
  }
} catch (thrown) {
  fail(reason(thrown), thrown instanceof ArgumentError ? status.badArguments : status.failure);
}
