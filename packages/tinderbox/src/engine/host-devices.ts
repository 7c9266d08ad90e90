/** Device nodes of the host, as the OCI spec wants them. */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { deviceNumber } from "../base/device-number.ts";
import { TinderboxError } from "../base/errors.ts";
import type { Device } from "./contract.ts";

export type OciDevice = {
  readonly path: string;
  readonly type: "b" | "c" | "p";
  /** A pipe has none */
  readonly major?: number;
  readonly minor?: number;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
};

/** A device, and what the container may do with it: some of r, w and m */
export type AllowedDevice = {
  readonly device: OciDevice;
  readonly access: string;
  readonly hostPath: string;
};

function readDevice(hostPath: string, path: string): OciDevice | undefined {
  const stat = statSync(hostPath, { bigint: true, throwIfNoEntry: false });
  if (!stat || !(stat.isBlockDevice() || stat.isCharacterDevice())) return undefined;
  return {
    path,
    type: stat.isBlockDevice() ? "b" : "c",
    ...deviceNumber(stat.rdev),
    fileMode: Number(stat.mode & 0o777n),
    uid: Number(stat.uid),
    gid: Number(stat.gid),
  };
}

/** The device a request names. @throws INVALID when it is none */
export function requestedDevice({ hostPath, containerPath, permissions }: Device): AllowedDevice {
  const device = readDevice(hostPath, containerPath || hostPath);
  if (!device)
    throw new TinderboxError("INVALID", `devices.host_path ${hostPath}: a device node is expected`);
  return { device, access: permissions || "rwm", hostPath };
}

/** Every device of the host, for privileged containers. */
export function allHostDevices(directory = "/dev"): readonly OciDevice[] {
  const own = new Set(["pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "console", "ptmx"]);
  const found: OciDevice[] = [];
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (directory === "/dev" && own.has(entry.name)) continue;
    const path = join(directory, entry.name);
    if (entry.isDirectory()) found.push(...allHostDevices(path));
    else if (!entry.isSymbolicLink()) {
      const device = readDevice(path, path);
      if (device) found.push(device);
    }
  }
  return found;
}
