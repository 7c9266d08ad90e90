/** Firecracker's SDK for Node: a typed API client, the life of a machine, vsock. */
export { adoptMachine } from "./adopt.ts";
export { type ApiClientOptions, FirecrackerClient, type Method } from "./api-client.ts";
export type * from "./device-wire.ts";
export {
  FirecrackerApiError,
  FirecrackerError,
  type FirecrackerErrorCode,
  FirecrackerExitedError,
  FirecrackerLaunchError,
  FirecrackerTimeoutError,
  FirecrackerVsockError,
} from "./errors.ts";
export {
  type ExitStatus,
  type LaunchOptions,
  launchMachine,
  Machine,
  type MachineConfiguration,
  type ShutdownDeadlines,
} from "./machine.ts";
export type * from "./machine-wire.ts";
export { isVmmAlive, signalVmm, type VmmIdentity, vmmIdentity } from "./process-identity.ts";
export { dialVsock, listenVsock, type VsockListener } from "./vsock.ts";
