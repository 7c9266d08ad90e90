// PUT /vsock: the device's unix socket, bound at once by the program that has the device.
import { errnoText, Fault, reason } from "../fault.ts";
import { DeviceError, type DeviceHost } from "../qemu/device-host.ts";
import type { Vsock } from "../schema/bodies.ts";

/** Binds `uds_path`, in place of the one before. @returns where QEMU connects @throws {Fault} */
export async function bindVsock(
  devices: DeviceHost,
  { guest_cid: cid, uds_path: path }: Vsock,
): Promise<string> {
  try {
    return await devices.requestSocket("vsock", { cid, path });
  } catch (cause) {
    const errno = cause instanceof DeviceError ? cause.errno : undefined;
    const why = errno === undefined ? reason(cause) : errnoText(errno);
    throw new Fault(
      `Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket (\`uds_path\` ${path}): ${why}`,
      { cause },
    );
  }
}
