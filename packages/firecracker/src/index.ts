/** Firecracker's SDK for Node: a typed API client, the life of a machine, snapshots, vsock. */
export { type AdoptOptions, adoptMachine } from "./adopt.ts";
export {
  type ApiClientOptions,
  type CallOptions,
  type CommonApi,
  FirecrackerClient,
  type PrebootApi,
  type RunningApi,
} from "./api-client.ts";
export type { VmPhase } from "./check-request.ts";
export type { MachineConfiguration } from "./configuration.ts";
export type * from "./drive-wire.ts";
export {
  explainExitCode,
  FirecrackerApiError,
  FirecrackerArgumentError,
  FirecrackerError,
  type FirecrackerErrorCode,
  FirecrackerExitedError,
  FirecrackerLaunchError,
  FirecrackerStateError,
  FirecrackerTimeoutError,
  FirecrackerVersionError,
  FirecrackerVsockError,
} from "./errors.ts";
export { Jail, type KeepRecord, type StageOptions } from "./jailer/jail.ts";
export type { JailRecord, StagedFile, TakenFile } from "./jailer/jail-record.ts";
export { findJail, type JailedSpawner, type JailPaths, jailedSpawner } from "./jailer/jailed-spawner.ts";
export { FirecrackerJailerError } from "./jailer/jailer-error.ts";
export type { CgroupSetting, JailerOptions } from "./jailer/jailer-options.ts";
export { removeJail } from "./jailer/remove-jail.ts";
export type { StagingAccess, StagingMethod } from "./jailer/staging-plan.ts";
export {
  type JournalEntry,
  type JournalRecord,
  type LiveRecord,
  MachineJournal,
  type Recovery,
} from "./journal.ts";
export { type LaunchOptions, launchFromConfigFile, launchMachine, type ProcessOptions } from "./launch.ts";
export { type Leftover, removeLeftovers } from "./leftovers.ts";
export type { RecordStream } from "./line-fifo.ts";
export { type LogRecord, openLogFifo, parseLogLine } from "./log-lines.ts";
export {
  ConfigurableMachine,
  type LogOptions,
  Machine,
  type MetricsOptions,
  PausedMachine,
  RunningMachine,
} from "./machine.ts";
export type * from "./memory-wire.ts";
export { openMetricsFifo, parseMetricsLine } from "./metrics.ts";
export type * from "./metrics-wire.ts";
export { type CniCall, networkFromCni } from "./network/cni-result.ts";
export {
  type BootNetwork,
  bootNetwork,
  type GuestAddress,
  type GuestNetwork,
  type GuestRoute,
  networkInterface,
} from "./network/guest-network.ts";
export { macFrom } from "./network/mac-address.ts";
export { FirecrackerNetworkError } from "./network/network-error.ts";
export { createTap, removeTap, type Tap, type TapName, type TapOptions } from "./network/tap.ts";
export type * from "./network-wire.ts";
export {
  type FieldSpec,
  type Method,
  type OperationName,
  type OperationSpec,
  operations,
  type PathUse,
} from "./operations.ts";
export type { OutputLog, OutputStream } from "./output-log.ts";
export type * from "./output-wire.ts";
export { type PageFaultHandler, type PageFaultHandlerOptions, spawnPageFaultHandler } from "./page-faults.ts";
export { isVmmAlive, signalVmm, type VmmIdentity, vmmIdentity } from "./process-identity.ts";
export { type Bandwidth, type ByteAmount, type RateLimit, rateLimiter, tokenBucket } from "./rate-limit.ts";
export type * from "./rate-limit-wire.ts";
export { type CloneOptions, type RestoreSettings, restoreClones, restoreMachine } from "./restore.ts";
export type { ShutdownOptions } from "./shutdown.ts";
export type { SnapshotLoadOptions, SnapshotOptions } from "./snapshot-options.ts";
export type * from "./snapshot-wire.ts";
export { type DirectSpawnerOptions, directSpawner, type VmmCommand, type VmmSpawner } from "./spawner.ts";
export { compareVmmVersions, isSupportedSince, parseVmmVersion, type VmmVersion } from "./version.ts";
export type * from "./vm-wire.ts";
export { type VmmFlags, vmmArguments } from "./vmm-arguments.ts";
export type { ExitStatus } from "./vmm-process.ts";
export { readVmmVersion } from "./vmm-version.ts";
export { type DialOptions, dialVsock } from "./vsock.ts";
export { type ListenOptions, listenVsock, type VsockListener } from "./vsock-listener.ts";
