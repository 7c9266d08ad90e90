// The vsock device across a snapshot. QEMU 7.2 cannot save a `vhost-user-vsock-device`: so it is taken out of the machine while the
// machine is saved, and put back with the registers as the guest's driver had written them. The device's backend goes on where
// its rings stood and tells the guest that every connection is gone.
import type { Duplex } from "node:stream";
import type { DeviceHost } from "./device-host.ts";
import type { QmpClient } from "./qmp-client.ts";

/** One ring as the guest's driver set it up; addresses in the guest's memory */
export type RingState = {
  readonly size: number;
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
  /** The next request that the device takes */
  readonly next: number;
};

/** What the guest's driver has made of the device; undefined rings: nothing yet */
export type TransportState = { readonly features: string; readonly rings: readonly RingState[] };

const device = "/machine/peripheral/vsock0";
const ringCount = 3;
/** Receive, transmit: the backend's. The third is for events. */
const backendRings = 2;
const eventRing = 2;

// Registers of virtio-mmio (virtio 1.2, section 4.2.2)
const register = {
  driverFeatures: 0x20,
  driverFeaturesSelect: 0x24,
  queueSelect: 0x30,
  queueSize: 0x38,
  queueReady: 0x44,
  status: 0x70,
  descriptors: 0x80,
  available: 0x90,
  used: 0xa0,
};
const status = { acknowledge: 1, driver: 2, driverOk: 4, featuresOk: 8 };

function numberOf(value: unknown, name: string): number {
  const found: unknown = typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
  if (typeof found !== "number") throw new Error(`QEMU does not say ${name} of the vsock device`);
  return found;
}

/** Reads the state of the stopped machine's device. */
export async function readTransport(qmp: QmpClient, devices: DeviceHost): Promise<TransportState> {
  const all = await qmp.execute("x-query-virtio");
  const found: unknown = Array.isArray(all)
    ? all.find((one: unknown) => String(Reflect.get(Object(one), "path")).startsWith(device))
    : undefined;
  const path = String(Reflect.get(Object(found), "path"));
  const rings: RingState[] = [];
  for (let queue = 0; queue < ringCount; queue++) {
    const ring = await qmp.execute("x-query-virtio-queue-status", { path, queue });
    if (numberOf(ring, "vring-desc") === 0) return { features: "0", rings: [] };
    rings.push({
      size: numberOf(ring, "vring-num"),
      descriptors: numberOf(ring, "vring-desc"),
      available: numberOf(ring, "vring-avail"),
      used: numberOf(ring, "vring-used"),
      next: numberOf(ring, "last-avail-idx"),
    });
  }
  return { features: String((await devices.request("vsock-features"))["features"]), rings };
}

/** Takes the device out of the machine, or puts it back as new. */
export async function setPresent(qmp: QmpClient, isPresent: boolean): Promise<void> {
  await qmp.execute("qom-set", { path: device, property: "realized", value: isPresent });
}

/** Writes the registers of a new device as the guest's driver had, and ends every connection. `base` is where they are. */
export async function restoreTransport(
  registers: Duplex,
  devices: DeviceHost,
  base: number,
  { features, rings }: TransportState,
): Promise<void> {
  const event = rings[eventRing];
  if (event === undefined) return;
  const writes: string[] = [];
  const write = (offset: number, value: number | bigint): void => {
    writes.push(`writel 0x${(base + offset).toString(16)} 0x${value.toString(16)}\n`);
  };
  const writePair = (offset: number, value: number): void => {
    write(offset, value % 2 ** 32);
    write(offset + 4, Math.floor(value / 2 ** 32));
  };
  const accepted = BigInt(features);
  write(register.status, 0);
  write(register.status, status.acknowledge | status.driver);
  write(register.driverFeaturesSelect, 0);
  write(register.driverFeatures, accepted & 0xffff_ffffn);
  write(register.driverFeaturesSelect, 1);
  write(register.driverFeatures, accepted >> 32n);
  write(register.status, status.acknowledge | status.driver | status.featuresOk);
  for (const [index, ring] of rings.entries()) {
    write(register.queueSelect, index);
    write(register.queueSize, ring.size);
    writePair(register.descriptors, ring.descriptors);
    writePair(register.available, ring.available);
    writePair(register.used, ring.used);
    write(register.queueReady, 1);
  }
  await devices.request("vsock-reset", {
    ring: event,
    bases: rings.slice(0, backendRings).map(({ next }) => next),
  });
  write(register.status, status.acknowledge | status.driver | status.featuresOk | status.driverOk);
  await answered(registers, writes);
}

/** Sends lines of QEMU's qtest protocol and waits until each was answered. */
function answered(registers: Duplex, lines: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    let text = "";
    const finish = (cause?: Error): void => {
      registers.off("data", read);
      registers.off("close", onClose);
      if (cause === undefined) resolve();
      else reject(cause);
    };
    const onClose = (): void => finish(new Error("QEMU has ended"));
    const read = (chunk: Buffer): void => {
      text += chunk.toString("latin1");
      const answers = text.split("\n").slice(0, -1);
      const wrong = answers.find((answer) => !answer.startsWith("OK"));
      if (wrong !== undefined) finish(new Error(`QEMU refused to write a register: ${wrong}`));
      else if (answers.length >= lines.length) finish();
    };
    registers.on("data", read);
    registers.on("close", onClose);
    registers.write(lines.join(""));
  });
}
