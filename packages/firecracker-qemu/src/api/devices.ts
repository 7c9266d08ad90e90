// Drives, network interfaces and pmem devices: put before the start, changed after it. Plugging them in later needs PCI.
import * as bodies from "../schema/bodies.ts";
import { bodyOf, type Call, checkSameId, idOf, type Operation } from "./operation.ts";

/** PUT /drives/ID */
export function putDrive(call: Call): Operation {
  const id = idOf(call);
  const drive = bodyOf(call, bodies.driveBody);
  checkSameId(id, drive.drive_id);
  return { when: "both", run: ({ machine }) => machine.plug((config) => config.putDrive(drive)) };
}

/** PATCH /drives/ID */
export function patchDrive(call: Call): Operation {
  const id = idOf(call);
  const patch = bodyOf(call, bodies.drivePatchBody);
  checkSameId(id, patch.drive_id);
  return { when: "after", run: ({ machine }) => machine.patchDrive(patch) };
}

/** PUT /network-interfaces/ID */
export function putInterface(call: Call): Operation {
  const id = idOf(call);
  const device = bodyOf(call, bodies.networkInterfaceBody);
  checkSameId(id, device.iface_id);
  return { when: "both", run: ({ machine }) => machine.plug((config) => config.putInterface(device)) };
}

/** PATCH /network-interfaces/ID */
export function patchInterface(call: Call): Operation {
  const id = idOf(call);
  const patch = bodyOf(call, bodies.networkInterfacePatchBody);
  checkSameId(id, patch.iface_id);
  return { when: "after", run: ({ machine }) => machine.patchInterface(patch) };
}

/** PUT /pmem/ID */
export function putPmem(call: Call): Operation {
  const id = idOf(call);
  const pmem = bodyOf(call, bodies.pmemBody);
  checkSameId(id, pmem.id);
  return { when: "both", run: ({ machine }) => machine.plug((config) => config.putPmem(pmem)) };
}

/** PATCH /pmem/ID */
export function patchPmem(call: Call): Operation {
  const id = idOf(call);
  const patch = bodyOf(call, bodies.pmemPatchBody);
  checkSameId(id, patch.id);
  return { when: "after", run: ({ machine }) => machine.patchPmem(patch) };
}

/** DELETE of one of them */
export function deleteDevice(call: Call): Operation {
  idOf(call);
  return { when: "after", run: ({ machine }) => machine.unplug() };
}
