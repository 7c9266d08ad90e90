// `firecracker-qemu`: the program. It ends when the guest does, and everything it started ends with it.
import { existsSync, readFileSync, unlinkSync } from "node:fs";
import { answerRequest } from "./api/answer-request.ts";
import { MmdsStore } from "./api/mmds-store.ts";
import { bootFromConfig } from "./config-file.ts";
import { reason, systemReason } from "./fault.ts";
import { type ApiServer, serve } from "./http/server.ts";
import { Microvm } from "./machine/microvm.ts";
import { Observations } from "./machine/observations.ts";
import { checkSnapshot } from "./machine/snapshot-file.ts";
import { AbortingError, ArgumentError, help, type Options, parseOptions } from "./options.ts";
import { parseLevelName } from "./schema/field-syntax.ts";
import { anything, parseStrict } from "./schema/strict-json.ts";
import { snapshotVersion, vmmVersion } from "./version.ts";

/** Firecracker's exit statuses that this program has, too */
const status = { ok: 0, failure: 1, badConfiguration: 152, badArguments: 153 };
const signalStatus = { SIGXFSZ: 151, SIGXCPU: 154, SIGHUP: 156 } as const;

/** An end with a status of its own */
class ExitError extends Error {
  readonly exitCode: number;
  constructor(message: string, exitCode: number, options?: ErrorOptions) {
    super(message, options);
    this.name = "ExitError";
    this.exitCode = exitCode;
  }
}

const say = (observations: Observations, text: string): void => observations.log("Info", text, "main");

function ends(observations: Observations): void {
  say(observations, `Firecracker exiting successfully. exit_code=${status.ok}`);
  process.exit(status.ok);
}

function fails(thrown: unknown, observations: Observations): never {
  const why = reason(thrown);
  if (thrown instanceof AbortingError) {
    observations.log("Error", `Firecracker panicked: ${why}`, "main");
    observations.writeMetrics();
    process.kill(process.pid, "SIGABRT");
  }
  const exitCode =
    thrown instanceof ExitError
      ? thrown.exitCode
      : thrown instanceof ArgumentError
        ? status.badArguments
        : status.failure;
  observations.log("Error", why, "main");
  process.stderr.write(`Error: ${why}\n`);
  observations.log("Error", `Firecracker exiting with error. exit_code=${exitCode}`, "main");
  process.exit(exitCode);
}

function readOption(what: string, path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(readFileSync(path));
  } catch (cause) {
    throw new AbortingError(`Unable to open or read the ${what} file ${path}: ${systemReason(cause)}`, {
      cause,
    });
  }
}

function startObservations(options: Options, observations: Observations): void {
  const { logPath, level, metricsPath, seccompFilter } = options;
  const parsedLevel = level === undefined ? undefined : parseLevelName(level);
  if (level !== undefined && parsedLevel === undefined)
    throw new ExitError(
      `Invalid value for logger level: ${level}; it can be Error, Warning, Info, Debug, Trace or Off`,
      status.badConfiguration,
    );
  observations.configureLogger({
    log_path: logPath,
    level: parsedLevel,
    show_level: options.showLevel || undefined,
    show_log_origin: options.showLogOrigin || undefined,
    module: options.module,
  });
  say(observations, `Running Firecracker v${vmmVersion} (firecracker-qemu)`);
  if (metricsPath !== undefined)
    observations.openMetrics({ metrics_path: metricsPath, emit_id: false, properties: undefined });
  if (seccompFilter !== undefined) {
    const why = existsSync(seccompFilter)
      ? "not supported by firecracker-qemu: QEMU has its own filter, always on"
      : "No such file or directory (os error 2)";
    throw new Error(`Seccomp error: --seccomp-filter ${seccompFilter}: ${why}`);
  }
  if (options.hasBootTimer)
    observations.log("Warning", "--boot-timer: QEMU has no boot timer device; nothing is measured.", "main");
}

/** Firecracker's statuses for the signals that it catches; the others end the program as they end any. */
function catchSignals(cleanUp: () => void): void {
  for (const [signal, exitCode] of Object.entries(signalStatus))
    process.on(signal, () => {
      cleanUp();
      process.exit(exitCode);
    });
  for (const signal of ["SIGTERM", "SIGINT", "SIGQUIT"] as const)
    process.once(signal, () => {
      cleanUp();
      process.kill(process.pid, signal);
    });
}

async function run(options: Options, observations: Observations): Promise<void> {
  startObservations(options, observations);
  const config = readOption("configuration", options.configFile);
  const metadataText = readOption("mmds content", options.metadataFile);
  const mmds = new MmdsStore(options.mmdsLimitBytes);
  const machine = new Microvm(options.apiSocket ?? options.id, mmds, observations);
  const { apiSocket, maxPayloadBytes, id } = options;
  const prepared = Promise.withResolvers<void>();
  let isListening = false;
  const cleanUp = (): void => {
    if (isListening && apiSocket !== undefined && existsSync(apiSocket)) unlinkSync(apiSocket);
  };
  catchSignals(cleanUp);
  let api: ApiServer | undefined;
  if (apiSocket !== undefined) {
    if (!existsSync(apiSocket)) await machine.own(apiSocket);
    try {
      api = await serve(apiSocket, maxPayloadBytes, async (request) => {
        await prepared.promise;
        return await answerRequest({ id, machine, observations, mmds }, request);
      });
    } catch (cause) {
      const why = existsSync(apiSocket) ? "Check that it is not already used." : systemReason(cause);
      throw new Error(`RunWithApiError error: Failed to open the API socket at: ${apiSocket}. ${why}`, {
        cause,
      });
    }
    isListening = true;
    say(observations, `Listening on API socket (${JSON.stringify(apiSocket)}).`);
    observations.log("Info", "API server started.");
  }
  try {
    const metadata = metadataText === undefined ? undefined : parseMetadata(metadataText);
    if (config !== undefined) await bootFromConfig({ config, metadata }, machine, observations, mmds);
    else if (metadata !== undefined) mmds.replace(metadata);
    prepared.resolve();
    const { exitCode, why } = await machine.ended;
    await api?.idle();
    if (exitCode !== status.ok) throw new ExitError(why, exitCode);
    say(observations, `The microVM has ended: ${why}.`);
  } finally {
    await machine.close();
    observations.writeMetrics();
    cleanUp();
  }
}

function parseMetadata(source: string): ReturnType<typeof anything> {
  try {
    return parseStrict(source, anything, "The metadata file");
  } catch (cause) {
    throw new AbortingError(`MMDS error: metadata provided is not valid JSON: ${reason(cause)}`, { cause });
  }
}

function readSnapshotVersion(path: string): string {
  try {
    checkSnapshot(path);
    return snapshotVersion;
  } catch (cause) {
    throw new Error(`When printing Snapshot Data format: ${path}: ${systemReason(cause)}`, { cause });
  }
}

const argv = process.argv.slice(2);
let observations = new Observations("anonymous-instance");
try {
  const command = parseOptions(argv);
  switch (command.kind) {
    case "help":
      process.stdout.write(`Firecracker v${vmmVersion}\n\n${help}`);
      break;
    case "version":
      process.stdout.write(`Firecracker v${vmmVersion}\n\n`);
      break;
    case "snapshot-version":
      process.stdout.write(`v${snapshotVersion}\n`);
      break;
    case "describe-snapshot":
      process.stdout.write(`v${readSnapshotVersion(command.path)}\n`);
      break;
    case "run":
      observations = new Observations(command.options.id);
      await run(command.options, observations);
  }
  ends(observations);
} catch (thrown) {
  fails(thrown, observations);
}
