// Everything that the package exports. A line less or more is a change of its public surface: CHANGELOG.md should tell.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as sdk from "./index.ts";

const values = [
  "ConfigurableMachine",
  "FirecrackerApiError",
  "FirecrackerArgumentError",
  "FirecrackerClient",
  "FirecrackerError",
  "FirecrackerExitedError",
  "FirecrackerJailerError",
  "FirecrackerLaunchError",
  "FirecrackerNetworkError",
  "FirecrackerStateError",
  "FirecrackerTimeoutError",
  "FirecrackerVersionError",
  "FirecrackerVsockError",
  "Jail",
  "Machine",
  "MachineJournal",
  "PausedMachine",
  "RunningMachine",
  "adoptMachine",
  "bootNetwork",
  "compareVmmVersions",
  "createTap",
  "dialVsock",
  "directSpawner",
  "explainExitCode",
  "findJail",
  "isSupportedSince",
  "isVmmAlive",
  "jailedSpawner",
  "launchFromConfigFile",
  "launchMachine",
  "listenVsock",
  "macFrom",
  "networkFromCni",
  "networkInterface",
  "openLogFifo",
  "openMetricsFifo",
  "operations",
  "parseLogLine",
  "parseMetricsLine",
  "parseVmmVersion",
  "rateLimiter",
  "readVmmVersion",
  "removeJail",
  "removeLeftovers",
  "removeTap",
  "restoreClones",
  "restoreMachine",
  "signalVmm",
  "spawnPageFaultHandler",
  "tokenBucket",
  "vmmArguments",
  "vmmIdentity",
];

const types = [
  "ActionWire",
  "AdoptOptions",
  "ApiClientOptions",
  "BalloonPatchWire",
  "BalloonStatisticsPatchWire",
  "BalloonStatisticsWire",
  "BalloonWire",
  "Bandwidth",
  "BlockMetricsWire",
  "BootNetwork",
  "BootSourceWire",
  "ByteAmount",
  "CallOptions",
  "CgroupSetting",
  "CloneOptions",
  "CniCall",
  "CommonApi",
  "CpuBitmap",
  "CpuConfigWire",
  "DialOptions",
  "DirectSpawnerOptions",
  "DrivePatchWire",
  "DriveWire",
  "EntropyWire",
  "ExitStatus",
  "FieldSpec",
  "FirecrackerErrorCode",
  "GuestAddress",
  "GuestNetwork",
  "GuestRoute",
  "HintingStartWire",
  "HintingStatusWire",
  "InstanceInfoWire",
  "JailPaths",
  "JailRecord",
  "JailedSpawner",
  "JailerOptions",
  "JournalEntry",
  "JournalRecord",
  "KeepRecord",
  "LatenciesWire",
  "LatencyWire",
  "LaunchOptions",
  "Leftover",
  "ListenOptions",
  "LiveRecord",
  "LogOptions",
  "LogRecord",
  "LoggerWire",
  "MachineConfigWire",
  "MachineConfiguration",
  "MemoryBackendWire",
  "MemoryHotplugPatchWire",
  "MemoryHotplugStatusWire",
  "MemoryHotplugWire",
  "Method",
  "MetricGroupWire",
  "MetricsOptions",
  "MetricsRecordWire",
  "MetricsWire",
  "MmdsConfigWire",
  "NetMetricsWire",
  "NetworkInterfacePatchWire",
  "NetworkInterfaceWire",
  "OperationName",
  "OperationSpec",
  "OrNull",
  "OutputLog",
  "OutputStream",
  "PageFaultHandler",
  "PageFaultHandlerOptions",
  "PathUse",
  "PmemPatchWire",
  "PmemWire",
  "PrebootApi",
  "ProcessOptions",
  "RateLimit",
  "RateLimiterWire",
  "RecordStream",
  "Recovery",
  "RestoreSettings",
  "RunningApi",
  "SerialWire",
  "ShutdownOptions",
  "SnapshotCreateWire",
  "SnapshotLoadOptions",
  "SnapshotLoadWire",
  "SnapshotOptions",
  "StageOptions",
  "StagedFile",
  "StagingAccess",
  "StagingMethod",
  "TakenFile",
  "Tap",
  "TapName",
  "TapOptions",
  "TokenBucketWire",
  "VcpuMetricsWire",
  "VersionWire",
  "VmConfigAnswerWire",
  "VmConfigWire",
  "VmPhase",
  "VmStateWire",
  "VmmCommand",
  "VmmFlags",
  "VmmIdentity",
  "VmmSpawner",
  "VmmVersion",
  "VsockListener",
  "VsockMetricsWire",
  "VsockWire",
];

/** Names of types that index.ts exports, by itself or with `export type * from`. */
function exportedTypes(): string[] {
  const read = (file: string): string => readFileSync(join(import.meta.dirname, file), "utf8");
  const index = read("index.ts");
  const names: string[] = [];
  for (const [, file = ""] of index.matchAll(/export type \* from "\.\/([^"]+)"/g))
    for (const [, name = ""] of read(file).matchAll(/^export (?:type|interface) (\w+)/gm)) names.push(name);
  for (const [, isType, list = ""] of index.matchAll(/export (type )?\{([^}]*)\}/g))
    for (const item of list.split(",").map((text) => text.trim())) {
      if (item.startsWith("type ")) names.push(item.slice("type ".length));
      else if (isType && item !== "") names.push(item);
    }
  return names.toSorted();
}

test("index: every export by its name", () => {
  assert.deepEqual(Object.keys(sdk).toSorted(), values);
  assert.deepEqual(exportedTypes(), types);
});

test("index: every exported symbol and every field has a comment", () => {
  const undocumented: string[] = [];
  const index = readFileSync(join(import.meta.dirname, "index.ts"), "utf8");
  for (const file of new Set([...index.matchAll(/from "\.\/([^"]+)"/g)].map(([, name = ""]) => name))) {
    const lines = readFileSync(join(import.meta.dirname, file), "utf8").split("\n");
    for (const [number, line] of lines.entries()) {
      const name =
        /^export (?:declare |abstract |async )*(?:type|interface|class|function|const) (\w+)/.exec(
          line,
        )?.[1] ?? /^ {2}readonly ("[^"]+"|\w+|\[\w+)/.exec(line)?.[1];
      if (name !== undefined && !lines[number - 1]?.trimEnd().endsWith("*/"))
        undocumented.push(`${file}: ${name}`);
    }
  }
  assert.deepEqual(undocumented, []);
});
