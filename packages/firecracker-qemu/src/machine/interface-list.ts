// The network interfaces before the start, each attached to its tap.
import { Fault, reason } from "../fault.ts";
import type { NetworkInterface, NetworkInterfacePatch } from "../schema/bodies.ts";
import { patchedLimiter } from "./rate-limiter.ts";
import { attachTap, detachTap, type Tap } from "./tap.ts";

/** A network interface of the machine; `host_dev_name` is what the tap is really called. */
export type AttachedInterface = NetworkInterface & { readonly tap: Tap };

const minMtu = 68;

/** Interfaces by id; putting one with a known id takes the other's place, and the other is gone even if that fails. */
export class InterfaceList {
  readonly #interfaces: AttachedInterface[] = [];

  get all(): readonly AttachedInterface[] {
    return this.#interfaces;
  }

  has(id: string): boolean {
    return this.#interfaces.some((one) => one.iface_id === id);
  }

  put(device: NetworkInterface): void {
    const { iface_id, guest_mac, host_dev_name, mtu } = device;
    const isTaken = (one: AttachedInterface): boolean =>
      one.guest_mac === guest_mac && one.iface_id !== iface_id;
    if (guest_mac !== undefined && this.#interfaces.some(isTaken))
      throw new Fault(`Network config error: The MAC address is already in use: ${guest_mac}`);
    this.#remove(iface_id);
    const refuse = (why: string, cause?: unknown): Fault =>
      new Fault(`Network config error: Could not create the network device: ${why}`, { cause });
    let tap: Tap;
    try {
      tap = attachTap(host_dev_name);
    } catch (cause) {
      throw refuse(`Open tap device failed: ${reason(cause)}`, cause);
    }
    if (mtu !== undefined && mtu < minMtu) {
      detachTap(tap);
      throw refuse(`MTU ${mtu} is out of range: it has to be ${minMtu} to 65535`);
    }
    this.#interfaces.push({ ...device, host_dev_name: tap.name, tap });
  }

  /** Changes the limiters of an interface that is there. */
  patchLimits({ iface_id, rx_rate_limiter, tx_rate_limiter }: NetworkInterfacePatch): void {
    const at = this.#interfaces.findIndex((one) => one.iface_id === iface_id);
    const device = this.#interfaces[at];
    if (device === undefined) return;
    this.#interfaces[at] = {
      ...device,
      rx_rate_limiter: patchedLimiter(device.rx_rate_limiter, rx_rate_limiter),
      tx_rate_limiter: patchedLimiter(device.tx_rate_limiter, tx_rate_limiter),
    };
  }

  /** The last one takes its place, as in Firecracker. */
  #remove(id: string): void {
    const at = this.#interfaces.findIndex((one) => one.iface_id === id);
    const [old, last] = [this.#interfaces[at], this.#interfaces.at(-1)];
    if (old === undefined || last === undefined) return;
    this.#interfaces[at] = last;
    this.#interfaces.pop();
    detachTap(old.tap);
  }
}
