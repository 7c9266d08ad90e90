/**
 * The factory of a microVM handler whose guest and VMM are looked for when they are needed: a guest that is built
 * while the daemon runs is found, and a daemon without one still serves its host handlers and cleans up.
 */
import { join } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { guestDirectory } from "../base/paths.ts";
import { chooseJailer } from "../guest/choose-jailer.ts";
import { chooseVmm, type GuestFiles } from "../guest/choose-vmm.ts";
import { requireGuest } from "../guest/guest-artefacts.ts";
import type { SandboxFactory } from "../sandbox/contract.ts";
import type { JailUsers } from "../sandbox/microvm/jail-users.ts";
import { createMicrovmSandboxFactory } from "../sandbox/microvm/microvm-sandbox.ts";
import type { DaemonConfig, MicroVmRuntimeConfig } from "./config.ts";

async function guestOf(runtime: MicroVmRuntimeConfig): Promise<GuestFiles> {
  if (runtime.kernel !== "" && runtime.initrd !== "")
    return { kernel: runtime.kernel, initrd: runtime.initrd };
  try {
    const guest = await requireGuest(guestDirectory);
    return { kernel: runtime.kernel || guest.vmlinux, initrd: runtime.initrd || guest.initramfs };
  } catch (cause) {
    const error = TinderboxError.from(cause);
    throw new TinderboxError("UNAVAILABLE", `runtime handler ${runtime.name}: ${error.message}`, {
      cause,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
}

/** Makes the factory of `runtime`. Scratch drives need a disk, so its files are below root, not below state. */
export function createMicrovmFactory(
  runtime: MicroVmRuntimeConfig,
  config: DaemonConfig,
  jailUsers: JailUsers,
  logger: Logger,
): SandboxFactory {
  const make = (vmm: string, guest: GuestFiles, jailer?: string): SandboxFactory =>
    createMicrovmSandboxFactory({
      handler: runtime.name,
      stateDir: join(config.root, "microvm"),
      vmm,
      jailer,
      jailUsers,
      ...guest,
      bootArgs: runtime.bootArgs,
      log: logger,
    });
  const made = new Map<string, SandboxFactory>();
  const resolve = async (signal: AbortSignal): Promise<SandboxFactory> => {
    const guest = await guestOf(runtime);
    const vmm = await chooseVmm(runtime.vmm, guest, config.root, logger, signal);
    const key = JSON.stringify([vmm, guest]);
    const known = made.get(key);
    if (known) return known;
    const factory = make(vmm, guest, await chooseJailer(runtime.jailer, vmm, logger, signal));
    made.set(key, factory);
    return factory;
  };
  return {
    // Planning, finding again and cleaning up need neither VMM nor guest.
    ...make("", { kernel: "", initrd: "" }),
    start: async (record, signal) => (await resolve(signal)).start(record, signal),
  };
}
