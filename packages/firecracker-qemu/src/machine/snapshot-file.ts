// The state file of a snapshot: what the machine is made of, and what QEMU says of its devices.
//
//   one line of JSON (Header)  \n  the state of QEMU's devices, `stateBytes` long
//
// The checksum is over the configuration and the state. It finds damage; like Firecracker's it is no protection from an attacker.
import { createHash } from "node:crypto";
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from "node:fs";
import type { TransportState } from "../qemu/vsock-transport.ts";

const format = "firecracker-qemu snapshot";
/** Firecracker 1.17's, by which clients decide what they may load; `format` tells its files from ours. Another major one does not load */
export const snapshotFormatVersion = "11.0.0";
const maxHeaderBytes = 1 << 20;
const maxStateBytes = 1 << 28;

export type SavedMachine = {
  /** As GET /vm/config shows it */
  readonly config: object;
  readonly accelerator: "kvm" | "tcg";
  readonly vsock: TransportState | undefined;
  /** ms since 1970 */
  readonly savedAt: number;
};

type Header = {
  readonly format: string;
  readonly version: string;
  readonly machine: SavedMachine;
  readonly stateBytes: number;
  readonly checksum: string;
};

function checksumOf(machine: unknown, state: Buffer): string {
  return createHash("sha256").update(JSON.stringify(machine)).update(state).digest("hex");
}

/** Writes the file at `path`; what was there is replaced. */
export function writeSnapshot(path: string, machine: SavedMachine, state: Buffer): void {
  const header: Header = {
    format,
    version: snapshotFormatVersion,
    machine,
    stateBytes: state.length,
    checksum: checksumOf(machine, state),
  };
  const fd = openSync(path, "w", 0o600);
  try {
    writeSync(fd, `${JSON.stringify(header)}\n`);
    writeSync(fd, state);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function isHeader(value: unknown): value is Header {
  if (typeof value !== "object" || value === null || Reflect.get(value, "format") !== format) return false;
  const machine: unknown = Reflect.get(value, "machine");
  return (
    typeof Reflect.get(value, "version") === "string" &&
    Number.isInteger(Reflect.get(value, "stateBytes")) &&
    typeof Reflect.get(value, "checksum") === "string" &&
    typeof machine === "object" &&
    machine !== null &&
    typeof Reflect.get(machine, "config") === "object" &&
    ["kvm", "tcg"].includes(String(Reflect.get(machine, "accelerator")))
  );
}

function readWhole(path: string): { header: Header; state: Buffer } {
  const raw = readFileSync(path);
  const end = raw.subarray(0, maxHeaderBytes).indexOf("\n");
  if (end < 0 || raw.length > maxHeaderBytes + maxStateBytes)
    throw new Error("it is no snapshot's state file");
  let header: unknown;
  try {
    header = JSON.parse(raw.toString("utf8", 0, end));
  } catch (cause) {
    throw new Error("it is no snapshot's state file", { cause });
  }
  if (!isHeader(header)) throw new Error("it is no snapshot of firecracker-qemu");
  return { header, state: raw.subarray(end + 1) };
}

/** @throws {Error} when the file at `path` is no snapshot of this program's */
export function checkSnapshot(path: string): void {
  readWhole(path);
}

/** @throws {Error} saying why the file cannot be used */
export function readSnapshot(path: string): { readonly machine: SavedMachine; readonly state: Buffer } {
  const { header, state } = readWhole(path);
  const [major] = header.version.split(".");
  if (major !== snapshotFormatVersion.split(".")[0])
    throw new Error(`its version is ${header.version}; this program reads ${snapshotFormatVersion}`);
  if (state.length !== header.stateBytes || checksumOf(header.machine, state) !== header.checksum)
    throw new Error("its checksum is wrong: it is damaged or cut off");
  return { machine: header.machine, state };
}
